# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a build did not happen, or was not accepted.

StoreError
└── BuildError           a derivation was not built; `kind` tells in which way
    └── RemoteBuildError     not by another machine, whose messages told why
"""

from typing import ClassVar

from builder.events import FailureKind
from store.errors import StoreError

PERMANENT_FAILURE = 100
"""The exit status Guix's clients know a permanent failure by."""
TIMED_OUT = 101
"""The exit status Guix's clients know a timeout or a silent builder by."""

STATUSES = {
    FailureKind.TIMED_OUT: TIMED_OUT,
    FailureKind.SILENT: TIMED_OUT,
    FailureKind.LOG_LIMIT: TIMED_OUT,
    FailureKind.PERMANENT: PERMANENT_FAILURE,
    FailureKind.CACHED: PERMANENT_FAILURE,
    FailureKind.INPUT_REJECTED: PERMANENT_FAILURE,
    FailureKind.NOT_EXECUTED: PERMANENT_FAILURE,
}
"""Exit statuses by kind of failure; any other kind is 1."""


class BuildError(StoreError):
    """A derivation was not built, or what was built is not accepted.

    Args:
        message: What went wrong, naming the derivation or the output.
        kind: In which way it failed; also the error's reason.
        status: The exit status for Guix's clients, where it is not that of the kind.
        signal: The signal that ended the builder, where one did.
    """

    default_reason: ClassVar[str] = FailureKind.MISC

    def __init__(
        self,
        message: str,
        kind: FailureKind = FailureKind.MISC,
        status: int | None = None,
        signal: int | None = None,
    ) -> None:
        known = STATUSES.get(kind, 1) if status is None else status
        super().__init__(message, reason=kind.value, status=known)
        self.kind = kind
        self.signal = signal


class RemoteBuildError(BuildError):
    """Another machine did not build a derivation.

    Args:
        message: What went wrong, naming the derivation or the output.
        kind: In which way it failed.
        wait_status: How the build hook ended, as wait(2) says it.
    """

    def __init__(self, message: str, kind: FailureKind, wait_status: int) -> None:
        super().__init__(message, kind)
        self.wait_status = wait_status
