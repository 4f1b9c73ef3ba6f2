# SPDX-License-Identifier: GPL-3.0-or-later
"""What Guix clients are shown of builds: events as texts and trace lines; pure.

Guix's user interface parses the lines that begin with ``@``, and matches some
of the other texts too, so they are the C++ daemon's to the letter. Each text
becomes one NEXT, because a client may show each as it comes. Entry points:
`Audience`, `render`.
"""

from collections.abc import Sequence
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


Texts = Sequence[bytes]


def render(event: BuildEvent, audience: Audience) -> Texts:
    """Give the texts by which a client learns of an event, in order."""
    match event:
        case Message() | GoalShared():
            level = event.level if isinstance(event, Message) else Level.INFO
            texts = _message(event.text, level, audience)
        case BuildLog():
            texts = _log(event, audience)
        case BuildStarted(drv, system, log_file, pid):
            texts = _trace(f"build-started {drv} - {system} {log_file} {pid}", audience)
        case BuildSucceeded(drv) | OutputConfirmed(drv):
            # A check says so once for each output, and then once more, as with the C++ daemon.
            texts = _trace(f"build-succeeded {drv} -", audience)
        case BuildFailed():
            texts = _failure(event, audience)
        case BuildRetried():
            texts = _message(_retry(event), Level.INFO, audience)
        case ContentFound(_, output, source):
            said = f"copying `{output}' from `{source}', which has the same content"
            texts = _message(said, Level.INFO, audience)
        case HashMismatch(path, algorithm, expected, actual):
            texts = _trace(f"hash-mismatch {path} {algorithm} {expected} {actual}", audience)
        case UnsupportedPlatform(drv, system):
            texts = _trace(f"unsupported-platform {drv} {system}", audience)
        case _:
            texts = _substitution(event, audience)
    return texts


def _substitution(event: BuildEvent, audience: Audience) -> Texts:
    match event:
        case SubstituteStarted(path):
            text = f"fetching path `{path}'..."
            trace = f"substituter-started {path} substitute"
            return [*_message(text, Level.INFO, audience), *_trace(trace, audience)]
        case SubstituteProgress() | SubstituterOutput():
            return _substituter_output(event, audience)
        case SubstituteSucceeded(path):
            text = f"substitution of path `{path}' succeeded"
            trace = f"substituter-succeeded {path}"
            return [*_message(text, Level.CHATTY, audience), *_trace(trace, audience)]
        case SubstituteFailed(path, status, message):
            trace = f"substituter-failed {path} {status} {message}"
            return [*_message(message, Level.INFO, audience), *_trace(trace, audience)]
        case _:
            return ()


def _retry(event: BuildRetried) -> str:
    number = f"attempt {event.attempt + 1} of {event.attempts}"
    return f"{event.message}; it is tried again ({number}, {TERMS[event.quiet]})"


def _message(text: str, level: Level, audience: Audience) -> Texts:
    number = LEVELS[level]
    if number > audience.verbosity:
        return ()
    prefix = f"\033[{number}s" if audience.escapes and level is not Level.INFO else ""
    return (f"{prefix}{text}\n".encode("utf-8", "surrogateescape"),)


def _trace(line: str, audience: Audience) -> Texts:
    if not audience.traces:
        return ()
    # A text that spans lines would end the trace, and might begin a forged one.
    return _message("@ " + line.replace("\n", " "), Level.ERROR, audience)


def _log(event: BuildLog, audience: Audience) -> Texts:
    if audience.verbosity < audience.build_verbosity:
        return ()
    prefix = b"@ build-log %d %d\n" % (event.pid, len(event.data)) if audience.multiplexed else b""
    return (prefix + event.data,)


def _substituter_output(event: SubstituteProgress | SubstituterOutput, audience: Audience) -> Texts:
    if isinstance(event, SubstituterOutput) and not event.path:
        return (b"substitute: " + event.data,)
    if audience.verbosity < audience.build_verbosity:
        return ()
    if isinstance(event, SubstituterOutput):
        return (event.data,)
    size = "-" if event.size is None else event.size
    done = f" {event.transferred}" if event.phase == "progress" else ""
    return (f"@ download-{event.phase} {event.path} {event.url} {size}{done}\n".encode(),)


def _failure(event: BuildFailed, audience: Audience) -> Texts:
    if event.kind is FailureKind.NOT_EXECUTED:
        # The C++ daemon's builder starts, says why it cannot go on, and exits.
        text = f"builder for `{event.drv}' failed with exit code 1"
        event = replace(event, kind=FailureKind.PERMANENT, message=text)
    said = event.message and event.kind not in _NO_TEXT and not event.remote
    texts = _message(event.message, Level.ERROR, audience) if said else ()
    trace = _failure_trace(event)
    return [*texts, *_trace(trace, audience)] if trace else texts


def _failure_trace(event: BuildFailed) -> str:
    if event.kind in _NO_TRACE:
        return ""
    if event.kind is FailureKind.HOOK:
        return f"hook-failed {event.drv} - {event.status} {event.message}"
    if event.kind in _TIMEOUTS:
        how = "timeout"
    else:
        how = "cached" if event.kind is FailureKind.CACHED else f"{event.status} {event.message}"
    return f"build-failed {event.drv} - {how}"
