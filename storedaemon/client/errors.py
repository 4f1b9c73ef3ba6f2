# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors of the client library.

StoreError
├── DaemonError            the daemon answered a request with an error
├── ConnectionFailedError  no daemon there, or it went away, or it broke the protocol
└── RecipeError            a recipe file that says something it cannot
"""

from collections.abc import Mapping
from typing import Any

from store.errors import StoreError


class DaemonError(StoreError):
    """The daemon did not serve a request.

    Args:
        reason: The daemon's word for it.
        message: Its sentence.
        details: What it adds for programs.
    """

    def __init__(self, reason: str, message: str, details: Mapping[str, Any]) -> None:
        status = details.get("status")
        super().__init__(message, reason=reason, status=status if isinstance(status, int) else 1)
        self.details = details


class ConnectionFailedError(StoreError):
    """There is no connection to a daemon, or no longer."""

    default_reason = "connection"


class RecipeError(StoreError):
    """A recipe file does not say what a recipe file must; names the file, table and key."""

    default_reason = "invalid-recipe"
