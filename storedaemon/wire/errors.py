# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between two ends of a connection.

RemoteError     the peer sent what the protocol does not allow
LocalError      our own code asked for what the protocol does not allow: a bug
NeedMoreData    not an error: the bytes so far are the beginning of a message
"""


class RemoteError(Exception):
    """The peer sent what the protocol does not allow; nothing after it can be understood.

    Args:
        message: What was wrong and where, for the peer's user.
        reason: A word for programs, which never changes once released.
    """

    def __init__(self, message: str, *, reason: str = "protocol") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason

    def within(self, place: str) -> "RemoteError":
        """Make the same error with the place it happened at in front."""
        return RemoteError(f"{place}: {self.message}", reason=self.reason)


class LocalError(Exception):
    """Our own code used a session out of order, or answered with another operation's reply."""


class NeedMoreData(Exception):  # noqa: N818 - no error, see the module
    """A value goes on beyond the bytes at hand.

    Args:
        until: The length that the buffer must at least have for another attempt
            to get further.
    """

    def __init__(self, until: int) -> None:
        super().__init__(until)
        self.until = until
