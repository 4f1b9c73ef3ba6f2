# SPDX-License-Identifier: GPL-3.0-or-later
"""The mini-protocol of ``guix authenticate``, without I/O.

    request    COMMAND LENGTH:ARGUMENT LENGTH:ARGUMENT…<newline>
    reply      CODE LENGTH:TEXT

Lengths are in octets, and arguments may hold anything, newlines included.
``sign`` takes the file of a secret key and a hash in base 16, and is answered
with a signature; ``verify`` takes a signature, and is answered with the hash in
base 16 that it signs. A code other than 0 comes with an error's text.
"""

import re
from dataclasses import dataclass

from store.errors import StoreError

SUCCESS = 0
COMMAND_NOT_FOUND = 404
COMMAND_FAILED = 500

MAX_ARGUMENT = 1 << 20
"""Octets of one argument, or of the text of a reply."""

_MAX_ARGUMENTS = 8
_MAX_COMMAND = 32
_DIGITS = len(str(MAX_ARGUMENT))
_HEAD = re.compile(rb"([0-9]{1,3}) ([0-9]{1,%d}):" % _DIGITS)
_HEAD_BEGUN = re.compile(rb"[0-9]{1,3}( [0-9]{0,%d})?" % _DIGITS)


class ProtocolError(StoreError):
    """The other side does not speak this protocol, or no longer."""

    default_reason = "agent"


@dataclass(frozen=True, slots=True)
class Request:
    """What a program is asked to do."""

    command: str
    arguments: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Write it."""
        words = [self.command.encode(), *(b"%d:%s" % (len(a), a) for a in self.arguments)]
        return b" ".join(words) + b"\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request."""

    code: int
    text: bytes

    def encode(self) -> bytes:
        """Write it."""
        return b"%d %d:%s" % (self.code, len(self.text), self.text)


class ReplyReader:
    """Reads the reply to one request.

    It is strict: whatever else the program says, it says on the same pipe, and
    a part of that could be made to look like a reply.
    """

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def said(self) -> bytes:
        """All that came so far."""
        return bytes(self._data)

    def feed(self, data: bytes) -> Reply | None:
        """Take some more bytes; give the reply once it is complete.

        Raises:
            ProtocolError: This is no reply, too long a one, or more than one.
        """
        self._data += data
        head = _HEAD.match(self._data)
        if head is None:
            if self._data and not _HEAD_BEGUN.fullmatch(self._data):
                raise ProtocolError("it sent what is no reply")
            return None
        size = int(head[2])
        if size > MAX_ARGUMENT:
            raise ProtocolError(f"it announced a reply of {size} octets")
        end = head.end() + size
        if len(self._data) > end:
            raise ProtocolError("it said more than it was asked")
        if len(self._data) < end:
            return None
        return Reply(int(head[1]), bytes(self._data[head.end() :]))


class RequestReader:
    """Reads requests, one after the other."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[Request]:
        """Take some more bytes; give the requests that they complete.

        Raises:
            ProtocolError: This is no request; nothing after it can be understood.
        """
        self._data += data
        requests = []
        while (found := self._next()) is not None:
            requests.append(found)
        return requests

    @property
    def pending(self) -> bool:
        """Whether a request has begun that is not complete."""
        return bool(self._data)

    def _next(self) -> Request | None:
        command = re.match(rb"[a-z]+(?=[ \n])", self._data)
        if command is None:
            if len(self._data) > _MAX_COMMAND or not re.fullmatch(rb"[a-z]*", self._data):
                raise ProtocolError("it sent what is no command")
            return None
        arguments: list[bytes] = []
        position = command.end()
        while self._data[position : position + 1] == b" ":
            end = self._argument(position + 1, arguments)
            if end is None:
                return None
            position = end
        if position == len(self._data):
            return None
        if self._data[position : position + 1] != b"\n":
            raise ProtocolError("an argument is longer than announced")
        self._data = self._data[position + 1 :]
        return Request(command[0].decode(), tuple(arguments))

    def _argument(self, position: int, arguments: list[bytes]) -> int | None:
        """Read an argument; give the position behind it, None if it is not all there."""
        length = re.compile(rb"([0-9]{1,%d})(:?)" % _DIGITS).match(self._data, position)
        if length is None and position == len(self._data):
            return None
        if length is None or len(arguments) == _MAX_ARGUMENTS:
            raise ProtocolError("it sent what is no argument")
        if not length[2]:
            if length.end() < len(self._data):
                raise ProtocolError("it sent what is no argument")
            return None
        end = length.end() + int(length[1])
        if int(length[1]) > MAX_ARGUMENT:
            raise ProtocolError(f"it announced an argument of {int(length[1])} octets")
        if end > len(self._data):
            return None
        arguments.append(self._data[length.end() : end])
        return end
