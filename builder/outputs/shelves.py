# SPDX-License-Identifier: GPL-3.0-or-later
"""What builders of fixed outputs see of the store beside their inputs, to find content by hash.

Whatever they take from there is hashed before it is accepted, so it makes no output
impure; all it can do is make a download unnecessary. Other builders see nothing of
it. Documented for authors of downloaders in docs/content-lookup.md. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from builder.builtins import Manner
from builder.operations import Bind, Operation
from store.content_links import ITEMS
from store.derivations import Derivation
from store.layout import Layout

BY_HASH = "/by-hash"
"""Where builders find files, below a directory named by the algorithm of a hash."""


@dataclass(frozen=True, slots=True)
class Shelves:
    """The directories that are shown."""

    layout: Layout

    def operations(self, *, has_user: bool) -> Iterator[Operation]:
        """Give what is mounted.

        The whole store is shown to build users only. Where builders run as the daemon's own
        user, nothing else would keep them out of each other's unfinished outputs.
        """
        store = self.layout.store
        yield Bind(self.layout.links, f"{store}/.links", optional=True)
        yield Bind(self.layout.dirlinks, f"{store}/.dirlinks", optional=True)
        yield Bind(self.layout.by_hash, BY_HASH, optional=True)
        if has_user:
            yield Bind(store, f"{store}/{ITEMS}")


def shelves_for(layout: Layout, derivation: Derivation, manner: Manner) -> Shelves | None:
    """Return what a builder may look content up in: nothing, unless its output is fixed."""
    if manner is not Manner.BUILDER or not derivation.is_fixed_output:
        return None
    return Shelves(layout)
