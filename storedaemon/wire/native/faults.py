# SPDX-License-Identifier: GPL-3.0-or-later
"""What a peer can do wrong so that its connection ends, and what fails one request only."""

from collections.abc import Mapping
from typing import Any

from store.errors import StoreError


class FaultError(Exception):
    """The peer broke the protocol; the connection cannot go on.

    Args:
        reason: One of the fault reasons of `docs/protocol.md`.
        message: What was wrong, for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class RequestError(StoreError):
    """One request cannot be served as it stands.

    Args:
        reason: One of the error reasons of `docs/protocol.md`.
        message: What was wrong, for people.
        details: More of the same for programs.
    """

    default_reason = "invalid-params"

    def __init__(
        self, reason: str, message: str, details: Mapping[str, Any] | None = None, status: int = 1
    ) -> None:
        super().__init__(message, reason=reason, status=status)
        self.details = dict(details or {})
