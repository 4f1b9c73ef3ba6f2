# SPDX-License-Identifier: GPL-3.0-or-later
"""What Guix clients are shown of builds: events as texts and trace lines; pure.

Guix's user interface parses the lines that begin with ``@``, and matches some
of the other texts too, so they are the C++ daemon's to the letter. Each text
becomes one NEXT, because a client may show each as it comes. Entry points:
`Audience`, `render`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from builder.events import (
    BuildEvent,
    BuildFailed,
    BuildLog,
    BuildRetried,
    BuildStarted,
    BuildSucceeded,
    ContentFound,
    FailureKind,
    GoalShared,
    HashMismatch,
    Level,
    Message,
    OutputConfirmed,
    SubstituteFailed,
    SubstituteProgress,
    SubstituterOutput,
    SubstituteStarted,
    SubstituteSucceeded,
    UnsupportedPlatform,
)
from builder.retries.policy import TERMS
from storedaemon.wire.messages import SetOptions

LEVELS = {level: number for number, level in enumerate(Level)}
_ESCAPES = 1
_TIMEOUTS = {FailureKind.TIMED_OUT, FailureKind.SILENT, FailureKind.LOG_LIMIT}
# The C++ daemon reports these with the request's final error, or in words only.
_NO_TRACE = {
    FailureKind.DEPENDENCY_FAILED,
    FailureKind.NOT_DETERMINISTIC,
    FailureKind.CANCELLED,
    FailureKind.SUBSTITUTION_FAILED,
    FailureKind.MISC,
}
_NO_TEXT = {
    FailureKind.NOT_DETERMINISTIC,
    FailureKind.CANCELLED,
    FailureKind.SUBSTITUTION_FAILED,
}


@dataclass(frozen=True, slots=True)
class Audience:
    """What one client wants to be shown; the defaults hold until it says otherwise.

    Attributes:
        verbosity: Messages up to this level are wanted.
        build_verbosity: Builders' output is wanted if `verbosity` is at least this.
        traces: Whether lines that begin with ``@`` are wanted.
        multiplexed: Whether each piece of a builder's output says whose it is.
        escapes: Whether messages that are no plain information say their level.
    """

    verbosity: int = LEVELS[Level.INFO]
    build_verbosity: int = LEVELS[Level.ERROR]
    traces: bool = False
    multiplexed: bool = False
    escapes: bool = False

    @classmethod
    def of(cls, options: SetOptions, *, multiplexed: bool) -> "Audience":
        """Give what a client's options say."""
        return cls(
            options.verbosity,
            options.build_verbosity,
            options.print_build_trace,
            multiplexed,
            options.log_type == _ESCAPES,
        )


def render(event: BuildEvent, audience: Audience) -> Iterator[bytes]:
    """Give the texts by which a client learns of an event, in order."""
    match event:
        case Message() | GoalShared():
            level = event.level if isinstance(event, Message) else Level.INFO
            yield from _message(event.text, level, audience)
        case BuildLog():
            yield from _log(event, audience)
        case BuildStarted(drv, system, log_file, pid):
            yield from _trace(f"build-started {drv} - {system} {log_file} {pid}", audience)
        case BuildSucceeded(drv) | OutputConfirmed(drv):
            # A check says so once for each output, and then once more, as with the C++ daemon.
            yield from _trace(f"build-succeeded {drv} -", audience)
        case BuildFailed():
            yield from _failure(event, audience)
        case BuildRetried():
            yield from _message(_retry(event), Level.INFO, audience)
        case ContentFound(_, output, source):
            text = f"copying `{output}' from `{source}', which has the same content"
            yield from _message(text, Level.INFO, audience)
        case HashMismatch(path, algorithm, expected, actual):
            yield from _trace(f"hash-mismatch {path} {algorithm} {expected} {actual}", audience)
        case UnsupportedPlatform(drv, system):
            yield from _trace(f"unsupported-platform {drv} {system}", audience)
        case _:
            yield from _substitution(event, audience)


def _substitution(event: BuildEvent, audience: Audience) -> Iterator[bytes]:
    match event:
        case SubstituteStarted(path):
            yield from _message(f"fetching path `{path}'...", Level.INFO, audience)
            yield from _trace(f"substituter-started {path} substitute", audience)
        case SubstituteProgress() | SubstituterOutput():
            yield from _substituter_output(event, audience)
        case SubstituteSucceeded(path):
            text = f"substitution of path `{path}' succeeded"
            yield from _message(text, Level.CHATTY, audience)
            yield from _trace(f"substituter-succeeded {path}", audience)
        case SubstituteFailed(path, status, message):
            yield from _message(message, Level.INFO, audience)
            yield from _trace(f"substituter-failed {path} {status} {message}", audience)


def _retry(event: BuildRetried) -> str:
    number = f"attempt {event.attempt + 1} of {event.attempts}"
    return f"{event.message}; it is tried again ({number}, {TERMS[event.quiet]})"


def _message(text: str, level: Level, audience: Audience) -> Iterator[bytes]:
    number = LEVELS[level]
    if number > audience.verbosity:
        return
    prefix = f"\033[{number}s" if audience.escapes and level is not Level.INFO else ""
    yield f"{prefix}{text}\n".encode("utf-8", "surrogateescape")


def _trace(line: str, audience: Audience) -> Iterator[bytes]:
    if audience.traces:
        # A text that spans lines would end the trace, and might begin a forged one.
        yield from _message("@ " + line.replace("\n", " "), Level.ERROR, audience)


def _log(event: BuildLog, audience: Audience) -> Iterator[bytes]:
    if audience.verbosity < audience.build_verbosity:
        return
    prefix = b"@ build-log %d %d\n" % (event.pid, len(event.data)) if audience.multiplexed else b""
    yield prefix + event.data


def _substituter_output(
    event: SubstituteProgress | SubstituterOutput, audience: Audience
) -> Iterator[bytes]:
    if isinstance(event, SubstituterOutput) and not event.path:
        yield b"substitute: " + event.data
    elif audience.verbosity < audience.build_verbosity:
        return
    elif isinstance(event, SubstituterOutput):
        yield event.data
    else:
        size = "-" if event.size is None else event.size
        done = f" {event.transferred}" if event.phase == "progress" else ""
        yield f"@ download-{event.phase} {event.path} {event.url} {size}{done}\n".encode()


def _failure(event: BuildFailed, audience: Audience) -> Iterator[bytes]:
    if event.kind is FailureKind.NOT_EXECUTED:
        # The C++ daemon's builder starts, says why it cannot go on, and exits.
        text = f"builder for `{event.drv}' failed with exit code 1"
        event = replace(event, kind=FailureKind.PERMANENT, message=text)
    if event.message and event.kind not in _NO_TEXT and not event.remote:
        yield from _message(event.message, Level.ERROR, audience)
    if event.kind in _TIMEOUTS:
        yield from _trace(f"build-failed {event.drv} - timeout", audience)
    elif event.kind is FailureKind.CACHED:
        yield from _trace(f"build-failed {event.drv} - cached", audience)
    elif event.kind is FailureKind.HOOK:
        yield from _trace(f"hook-failed {event.drv} - {event.status} {event.message}", audience)
    elif event.kind not in _NO_TRACE:
        yield from _trace(f"build-failed {event.drv} - {event.status} {event.message}", audience)
