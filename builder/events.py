# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client that waits for builds is told, without regard to its dialect.

Events of one goal arrive in the order they happened. A dialect turns them into
its own form: trace lines for Guix clients, CBOR maps for native ones.
"""

from dataclasses import dataclass
from enum import StrEnum

from builder.scheduling.waiting import Holder, clock
from store.paths import StorePath


class Level(StrEnum):
    """How much a message matters; the numbers of the protocol are its position."""

    ERROR = "error"
    INFO = "info"
    TALKATIVE = "talkative"
    CHATTY = "chatty"
    DEBUG = "debug"
    VOMIT = "vomit"


class FailureKind(StrEnum):
    """Why a build did not succeed; the words are stable."""

    PERMANENT = "permanent-failure"
    TRANSIENT = "transient-failure"
    OUTPUT_REJECTED = "output-rejected"
    INPUT_REJECTED = "input-rejected"
    NOT_EXECUTED = "not-executed"
    DEPENDENCY_FAILED = "dependency-failed"
    TIMED_OUT = "timed-out"
    SILENT = "silent-too-long"
    LOG_LIMIT = "log-limit"
    CACHED = "cached-failure"
    NOT_DETERMINISTIC = "not-deterministic"
    SUBSTITUTION_FAILED = "substitution-failed"
    CANCELLED = "cancelled"
    HOOK = "hook-failure"
    MISC = "failure"


@dataclass(frozen=True, slots=True)
class Message:
    """A line for the client's user."""

    text: str
    level: Level = Level.INFO


@dataclass(frozen=True, slots=True)
class GoalPlanned:
    """A derivation will have to be built; `total` counts those planned so far for this request."""

    drv: StorePath
    total: int


@dataclass(frozen=True, slots=True)
class GoalWaiting:
    """A goal cannot go on yet.

    Attributes:
        drv: The derivation or item.
        what: What it waits for: slot, lock, machine, memory, …
        holder: Why it does not have it, or who has it, for people.
        holders: Who has it, as far as that is known.
        since: Since when it waits, in seconds since 1970.
    """

    drv: StorePath
    what: str
    holder: str
    holders: tuple[Holder, ...] = ()
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class GoalShared:
    """A goal that somebody else wanted before, and that is therefore made once for both.

    `state` is what it does at the moment, `by` who wanted it first, and since when.
    """

    drv: StorePath
    state: str
    by: Holder

    @property
    def text(self) -> str:
        """Say it in a line."""
        whom = f" for user {self.by.user}" if self.by.user else ""
        process = f" (pid {self.by.pid})" if self.by.pid else ""
        since = f" since {clock(self.by.since)}" if self.by.since else ""
        building = self.state in {"building", "preparing"}
        doing = "being built" if building else self.state
        return f"`{self.drv}' is already {doing}{whom}{process}{since}"


@dataclass(frozen=True, slots=True)
class BuildStarted:
    """A builder runs; `log_file` is empty where no log is kept, `pid` is the container's first."""

    drv: StorePath
    system: str
    log_file: str
    pid: int


@dataclass(frozen=True, slots=True)
class BuildLog:
    """Bytes that the builder wrote to its standard output or error, as they came."""

    drv: StorePath
    pid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputConfirmed:
    """A check made an output again, and it came out the same."""

    drv: StorePath
    output: StorePath


@dataclass(frozen=True, slots=True)
class ContentFound:
    """A fixed output was not built, since a copy of what lay elsewhere is just that.

    `source` is a store item, or a file or directory of a content source.
    """

    drv: StorePath
    output: StorePath
    source: str


@dataclass(frozen=True, slots=True)
class BuildSucceeded:
    """All wanted outputs are registered; `seconds` is the wall time of the builder."""

    drv: StorePath
    outputs: tuple[StorePath, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """A derivation was not built.

    `status` is the number in Guix's ``@ build-failed`` trace, or in ``@ hook-failed``.
    `remote` where another machine failed, whose messages have told why.
    """

    drv: StorePath
    kind: FailureKind
    message: str
    status: int = 1
    remote: bool = False


@dataclass(frozen=True, slots=True)
class BuildRetried:
    """An attempt failed, and another will be made.

    Attributes:
        drv: The derivation.
        attempt: The number of the attempt that failed, from 1.
        attempts: How many there may be.
        cause: What ended it, a stable word.
        message: The same for people.
        quiet: How quiet the machine has to be for the next: ``usual``, ``half``, ``alone``.
        log_file: Where the output of the failed attempt is; empty where none was kept.
    """

    drv: StorePath
    attempt: int
    attempts: int
    cause: str
    message: str
    quiet: str
    log_file: str


@dataclass(frozen=True, slots=True)
class HashMismatch:
    """A fixed output has other content than its derivation states; hashes as the trace shows."""

    path: StorePath
    algorithm: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class UnsupportedPlatform:
    """A derivation is for a system that this machine cannot run."""

    drv: StorePath
    system: str


class Damage(StrEnum):
    """What is wrong with a registered item; the words are stable."""

    FORGOTTEN = "forgotten"
    MISSING = "missing"
    MODIFIED = "modified"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ItemDamaged:
    """An item is not what was registered; `repaired` if it has been built again since.

    What nothing refers to is no longer registered: `Damage.FORGOTTEN`.
    """

    path: StorePath
    damage: Damage
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class SubstitutePlanned:
    """An item will be downloaded; `total` counts those planned so far, sizes are 0 if unknown."""

    path: StorePath
    download_size: int
    nar_size: int
    total: int


@dataclass(frozen=True, slots=True)
class SubstituteStarted:
    """An item is being downloaded."""

    path: StorePath


@dataclass(frozen=True, slots=True)
class SubstituteProgress:
    """How far the download of an item is, in bytes; `size` is None where that is not known.

    `phase` is ``started``, ``progress`` or ``succeeded``.
    """

    path: StorePath
    phase: str
    url: str
    size: int | None
    transferred: int


@dataclass(frozen=True, slots=True)
class SubstituterOutput:
    """A line for people, with its end, of a substitute program.

    `path` is what it downloads, and empty while it looks for what there is.
    """

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SubstituteSucceeded:
    """An item was downloaded, found to be what was announced, and registered."""

    path: StorePath
    nar_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SubstituteFailed:
    """An item was not downloaded, or not accepted; `status` is what the program said of it."""

    path: StorePath
    status: str
    message: str


BuildEvent = (
    Message
    | GoalPlanned
    | GoalWaiting
    | GoalShared
    | BuildStarted
    | BuildLog
    | OutputConfirmed
    | ContentFound
    | BuildSucceeded
    | BuildFailed
    | BuildRetried
    | HashMismatch
    | UnsupportedPlatform
    | ItemDamaged
    | SubstitutePlanned
    | SubstituteStarted
    | SubstituteProgress
    | SubstituterOutput
    | SubstituteSucceeded
    | SubstituteFailed
)
