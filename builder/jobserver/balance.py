# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets which tokens; pure.

Nobody can see whether somebody waits for a token at a fifo. What can be seen is how many
lie there unread: where there is one, nobody waits. So tokens that are not used are spread
over the fifos, and when there are too few for all, they go to those whose last was read.

Entry points: `balance`, `owing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """How one build stands.

    Attributes:
        used: The tokens that it has read.
        unread: Those that lie in its fifo.
        resting: Whether it has just left one unread, and is not to be asked for a while.
    """

    used: int
    unread: int
    resting: bool = False

    @property
    def hungry(self) -> bool:
        """Whether it may be waiting."""
        return not self.unread and not self.resting


def balance(free: int, builds: Sequence[Standing]) -> list[int]:
    """Tell how many tokens each build's fifo is to hold.

    Args:
        free: Tokens that nobody has; negative where some are owed to builds that start.
        builds: How the builds stand.
    """
    if not builds:
        return []
    spare = max(0, free + sum(build.unread for build in builds))
    each, rest = divmod(spare, len(builds))
    wanted = [each] * len(builds)
    for index in sorted(range(len(builds)), key=lambda index: _turn(builds[index], each))[:rest]:
        wanted[index] += 1
    return wanted


def _turn(build: Standing, each: int) -> tuple[bool, bool, int]:
    """Order builds: who may be waiting, then who has a token in its fifo already."""
    return not build.hungry, build.unread <= each, build.used


def owing(builds: Sequence[Standing], *, starting: bool) -> list[int]:
    """Tell from which builds a token is to be caught as soon as one of their jobs ends.

    They are those that use at least two more than one that may be waiting, or, where
    a build waits for its start, all that use any. There are none while any token is unread.
    """
    if any(build.unread for build in builds):
        return []
    least = min((build.used for build in builds if build.hungry), default=None)
    enough = 1 if starting else None if least is None else least + 2
    if enough is None:
        return []
    return [index for index, build in enumerate(builds) if build.used >= enough]
