# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors of the helper transport and of the locker.

    HelperError                a helper process, or the channel to it, failed
    ├── ChannelClosedError     the other end is gone, or this end was closed
    ├── MessageError           a datagram that is no permitted message
    │   └── LostDescriptorsError  a well-formed message whose descriptors did not all arrive
    └── LockError              a lock that was asked for cannot be had

Every error carries a `reason`: a short word for programs, which never changes
once released.
"""

from typing import ClassVar


class HelperError(Exception):
    """A helper process, or the channel to it, failed.

    Args:
        message: A sentence that names what was wrong, without a final full stop.
        reason: A word for programs; the class has a default.
    """

    default_reason: ClassVar[str] = "helper"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason


class ChannelClosedError(HelperError):
    """The other end of the channel is gone, or this end was closed."""

    default_reason = "channel-closed"


class MessageError(HelperError):
    """A datagram that is no message its receiver accepts."""

    default_reason = "invalid-message"


class LostDescriptorsError(MessageError):
    """A well-formed message whose descriptors did not all arrive.

    The kernel drops descriptors that the receiver has no room for (RLIMIT_NOFILE).
    Those that did arrive are closed. `content` is the decoded message, so that its
    sender can be told.
    """

    default_reason = "lost-descriptors"

    def __init__(self, message: str, content: object) -> None:
        super().__init__(message)
        self.content = content


class LockError(HelperError):
    """A lock that was asked for cannot be had."""

    default_reason = "lock"
