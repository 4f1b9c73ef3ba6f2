# SPDX-License-Identifier: GPL-3.0-or-later
"""What a collection is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from store.database.garbage import Keeping
from store.paths import StorePath


class Action(Enum):
    """What to do with garbage, or with what is none."""

    LIST_LIVE = "list-live"
    LIST_DEAD = "list-dead"
    DELETE_DEAD = "delete-dead"
    DELETE_SPECIFIC = "delete-specific"


@dataclass(frozen=True, slots=True)
class Wish:
    """What one collection is to do.

    Attributes:
        action: What to do.
        paths: What to delete, for `DELETE_SPECIFIC`.
        limit: Stop when more than so many bytes are freed; None for no limit, 0
            to delete nothing but what lies in the trash.
        used_before: Delete only what nothing has used since then, in seconds
            since the epoch; None for whatever is dead.
        keeping: What keeps items besides references.
        dry: Tell what would be deleted, and delete nothing.
    """

    action: Action
    paths: Sequence[StorePath] = ()
    limit: int | None = None
    used_before: int | None = None
    keeping: Keeping = field(default_factory=Keeping)
    dry: bool = False

    @property
    def deletes(self) -> bool:
        """Whether garbage is to be deleted, or would be."""
        return self.action in (Action.DELETE_DEAD, Action.DELETE_SPECIFIC)
