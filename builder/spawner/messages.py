# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon and the spawner say to each other.

Beside a `SpawnRequest` go the descriptors of the container: standard output and error
in one, the write end of the status pipe, standard input if there is one, and one more if
it awaits or brings a network. Beside a `Spawned` goes a pidfd. The status pipe belongs to
one container: its end is closed by
the exec that succeeds; otherwise a `SetupFailure` is in it.
"""

from dataclasses import dataclass

from locker.codec import Codec


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """Start a container; `number` is chosen by the client and comes back in the reply.

    `script` is what `builder.spawner.script.pack` made of its description. The spawner
    trusts the daemon, so it only unpacks that: to look at each part would take longer than
    half of what the container takes to set up.
    """

    number: int
    script: bytes
    has_stdin: bool


@dataclass(frozen=True, slots=True)
class Spawned:
    """The container's first process exists; `pid` is its number for the daemon."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class Joined:
    """There is another process that makes containers, `pid`.

    Beside it go a pidfd, and the daemon's end of a channel to that process.
    """

    pid: int


@dataclass(frozen=True, slots=True)
class SetupFailure:
    """A container could not be set up, or its program not be executed.

    Attributes:
        step: Which step failed, a word that does not change once released.
        errno: The error number, 0 where the fault is none of the kernel's.
        text: What was wrong.
        operation: The position of the operation that failed, None where it was another step.
    """

    step: str
    errno: int
    text: str
    operation: int | None = None


@dataclass(frozen=True, slots=True)
class SpawnRefused:
    """No process was made."""

    number: int
    failure: SetupFailure


CODEC = Codec(
    SpawnRequest,
    Spawned,
    SpawnRefused,
    Joined,
    descriptors={SpawnRequest: 4, Spawned: 1, Joined: 2},
)
STATUS_CODEC = Codec(SetupFailure)
