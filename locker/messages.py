# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon and the locker say to each other.

The daemon numbers its locks with tokens that it never uses again. A request and its reply
stand together; a request without a reply has none.
"""

import dataclasses
import enum
from collections.abc import Iterable, Iterator

from locker.channel import MAX_DESCRIPTORS
from locker.codec import Codec

MAX_BATCH = MAX_DESCRIPTORS
"""Files in one request, and tokens in one release."""


class Outcome(enum.StrEnum):
    """Why an `AcquireLocks` ended where it did.

    GRANTED: All files are locked.
    CONTENDED: One was locked by others, and the request was not to wait; none is locked.
    STALE: A lock file was deleted by its last holder; those before it are locked.
    REFUSED: The kernel refused a file; those before it are locked.
    ABANDONED: The daemon released tokens of the request while it waited; none is locked.
    """

    GRANTED = "granted"
    CONTENDED = "contended"
    STALE = "stale"
    REFUSED = "refused"
    ABANDONED = "abandoned"


@dataclasses.dataclass(frozen=True, slots=True)
class AcquireLocks:
    """Lock the files whose descriptors go with the message, one after the other.

    Each descriptor must be an open file description of its own, since the lock belongs to
    that. The order is kept, so that daemons which lock in the same order cannot deadlock.

    Attributes:
        first: The token of the first file; the others have the numbers that follow.
        shared: Shared locks, for which a file must be open for reading, rather than exclusive
            ones, for which it must be open for writing.
        wait: Wait for files that others have locked.
        lock_files: The files are lock files, which become stale when they are deleted, and
            which must be regular, empty and of one name.
    """

    first: int
    shared: bool
    wait: bool
    lock_files: bool


@dataclasses.dataclass(frozen=True, slots=True)
class AcquireLocksReply:
    """The end of a request; each has exactly one.

    Attributes:
        first: The first token, as in the request.
        granted: How many files are locked: those of the tokens from `first` on.
        outcome: Why it ended here.
        errno: The kernel's error number if refused, else 0.
    """

    first: int
    granted: int
    outcome: Outcome
    errno: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseLocks:
    """Unlock files, and abandon the request that still waits for them.

    Attributes:
        first: The first token.
        count: The number of tokens, from 1 to `MAX_BATCH`; `releases` keeps to that. Those that
            hold nothing are passed over, since a grant and the decision not to wait for it may
            cross.
        deleted: The daemon has unlinked the lock files: mark them, for those who wait.

    Raises:
        ValueError: Of the count.
    """

    first: int
    count: int
    deleted: bool

    def __post_init__(self) -> None:
        if not 0 < self.count <= MAX_BATCH:
            raise ValueError(f"a range of {self.count} tokens, from 1 to {MAX_BATCH} are allowed")


@dataclasses.dataclass(frozen=True, slots=True)
class GetStatistics:
    """Ask for counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class GetStatisticsReply:
    """The locker's counts.

    Attributes:
        held: Locks held.
        contended: Files that are waited for.
        waiting: Requests that wait.
        blocked: Threads that wait for the locks of other processes.
    """

    held: int
    contended: int
    waiting: int
    blocked: int


def releases(tokens: Iterable[int], *, deleted: bool = False) -> Iterator[ReleaseLocks]:
    """Yield what releases tokens, however many: a message for each run of consecutive ones."""
    first = count = 0
    for token in sorted(tokens):
        if 0 < count < MAX_BATCH and token == first + count:
            count += 1
            continue
        if count:
            yield ReleaseLocks(first, count, deleted)
        first, count = token, 1
    if count:
        yield ReleaseLocks(first, count, deleted)


CODEC = Codec(
    AcquireLocks,
    AcquireLocksReply,
    ReleaseLocks,
    GetStatistics,
    GetStatisticsReply,
    descriptors={AcquireLocks: MAX_BATCH},
)
