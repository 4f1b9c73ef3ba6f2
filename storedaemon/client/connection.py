# SPDX-License-Identifier: GPL-3.0-or-later
"""One socket to a daemon, shared by any number of requests.

There is no background task: whichever request waits reads for all, so a
connection lives in a plain context manager and an error reaches the code that
waits. What a request has not taken yet is bounded by its window.

Entry points: `open_link`, `Link.exchange`.
"""

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import trio

from storedaemon.client.errors import ConnectionFailedError, DaemonError
from storedaemon.sockets import short_name
from storedaemon.wire.native import messages
from storedaemon.wire.native.connection import ClientConnection
from storedaemon.wire.native.faults import FaultError
from storedaemon.wire.native.frames import PREFIX
from storedaemon.wire.native.messages import Message, encode_message
from storedaemon.wire.native.windows import DAEMON_WINDOW

_READ_SIZE = 65_536
_CANCEL_SECONDS = 1.0
"""How long a request that is given up may take to say so; the socket is full if it takes longer."""


@contextlib.asynccontextmanager
async def open_link(path: str, name: str) -> "AsyncIterator[Link]":
    """Connect to a daemon's native socket, and exchange hellos.

    Args:
        path: The socket's file name, of any length.
        name: What the daemon's log calls this client.

    Raises:
        ConnectionFailedError: Nobody listens, or the listener is no such daemon.
    """
    stream = await _connect(path)
    async with stream:
        link = Link(stream, path)
        await link.greet(name)
        yield link


async def _connect(path: str) -> trio.SocketStream:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_name(path) as short:
            await sock.connect(short)
    except OSError as error:
        sock.close()
        text = error.strerror or str(error)
        raise ConnectionFailedError(f"cannot reach a daemon at '{path}': {text}") from error
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class Link:
    """A connection, and the requests that share it.

    Args:
        stream: The connected socket.
        path: Its name, for errors.
    """

    def __init__(self, stream: trio.SocketStream, path: str) -> None:
        self.connection = ClientConnection()
        self._stream = stream
        self._path = path
        self._next_id = 0
        self._exchanges: dict[int, Exchange] = {}
        self._sending = trio.StrictFIFOLock()
        self._reading = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._failure: ConnectionFailedError | None = None

    async def greet(self, name: str) -> None:
        """Exchange hellos."""
        await self.send(self.connection.greeting(name))
        await self.wait_until(lambda: self.connection.hello is not None)

    @property
    def hello(self) -> messages.ServerHello:
        """What the daemon says of itself."""
        assert self.connection.hello is not None, "no link is handed out before the hello"
        return self.connection.hello

    @contextlib.asynccontextmanager
    async def exchange(self, method: str, params: Mapping[str, Any]) -> "AsyncIterator[Exchange]":
        """Send a request; leaving before its reply came cancels it."""
        request, self._next_id = self._next_id, self._next_id + 1
        exchange = Exchange(self, request)
        self.connection.begin(request)
        self._exchanges[request] = exchange
        try:
            await self.send(messages.Request(request, method, params))
            yield exchange
        finally:
            self.connection.finish(request)
            del self._exchanges[request]
            if not exchange.answered and self._failure is None:
                with trio.move_on_after(_CANCEL_SECONDS, shield=True):
                    await self.send(messages.Cancel(request))

    async def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            ConnectionFailedError: The daemon is gone.
        """
        await self.send_frame(encode_message(message))

    async def send_frame(self, frame: bytes) -> None:
        """Send one message that is encoded already; see `send`."""
        async with self._sending:
            self._check()
            try:
                await self._stream.send_all(frame)
            except trio.BrokenResourceError as error:
                # It may have said why before it went; whoever reads finds out.
                await self._last_words()
                raise self._fail("the daemon closed the connection") from error
            except trio.Cancelled:
                self._fail("a message was cut short when its sender was cancelled")
                raise

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until what comes in has made something true.

        Raises:
            ConnectionFailedError: The connection ended before that.
        """
        while not condition():
            self._check()
            if self._reading:
                await self._waiting.park()
            else:
                await self._receive()

    async def _receive(self) -> None:
        self._reading = True
        try:
            data = await self._stream.receive_some(_READ_SIZE)
            self._take(data)
        except (trio.BrokenResourceError, FaultError) as error:
            raise self._fail(f"{self._path}: {error}") from error
        finally:
            self._reading = False
            self._waiting.unpark_all()

    async def _last_words(self) -> None:
        while self._failure is None and not self._reading:
            with contextlib.suppress(ConnectionFailedError):
                await self._receive()

    def _take(self, data: bytes) -> None:
        if not data:
            raise self._fail("the daemon closed the connection")
        for message, length in self.connection.receive(data):
            match message:
                case messages.Fault(reason, text):
                    raise self._fail(f"the daemon ended the connection: {text} ({reason})")
                case messages.ServerHello() | messages.Credit():
                    pass
                case messages.Reply() | messages.Failure():
                    self._exchanges[message.id].answer = message
                case messages.Event() | messages.Chunk():
                    self._exchanges[message.id].inbox.append((message, length))

    def _fail(self, text: str) -> ConnectionFailedError:
        if self._failure is None:
            self._failure = ConnectionFailedError(text)
        return self._failure

    def _check(self) -> None:
        if self._failure is not None:
            raise ConnectionFailedError(self._failure.message)


class Exchange:
    """One request: what is streamed for it, and its answer.

    Args:
        link: The connection.
        request: The request's id.
    """

    def __init__(self, link: Link, request: int) -> None:
        self.inbox: deque[tuple[messages.Event | messages.Chunk, int]] = deque()
        self.answer: messages.Reply | messages.Failure | None = None
        self._link = link
        self._id = request
        self._taken = 0

    @property
    def id(self) -> int:
        """The request's number."""
        return self._id

    @property
    def answered(self) -> bool:
        """Whether the daemon is done with the request."""
        return self.answer is not None

    async def next(self) -> messages.Event | messages.Chunk | None:
        """Give the next event or chunk when it comes; None once there is an answer.

        Each is credited when the next is asked for: who takes them slowly slows
        the daemon down instead of filling memory.
        """
        credit = self._link.connection.consumed(self._id, self._taken)
        self._taken = 0
        if credit and not self.answered:
            await self._link.send(messages.Credit(self._id, credit))
        await self._link.wait_until(lambda: self.inbox or self.answered)
        if not self.inbox:
            return None
        message, self._taken = self.inbox.popleft()
        return message

    async def result(self) -> Mapping[str, Any]:
        """Wait for the answer; what is streamed before it is dropped.

        Raises:
            DaemonError: The daemon answered with an error.
        """
        while await self.next() is not None:
            pass
        match self.answer:
            case messages.Failure(_, reason, text, details):
                raise DaemonError(reason, text, details)
            case messages.Reply(_, result):
                return result
            case _:
                raise AssertionError("the stream ended without an answer")

    async def send_chunk(self, data: bytes) -> bool:
        """Send a part of the body once the window has room; False where it is not wanted."""
        frame = encode_message(messages.Chunk(self._id, data))
        length = len(frame) - PREFIX.size
        window = self._link.connection.window_of(self._id)
        await self._link.wait_until(lambda: self.answered or window.fits(length))
        if self.answered:
            return False
        window.sent(length)
        await self._link.send_frame(frame)
        return True

    async def send_end(self) -> None:
        """Say that the body is complete."""
        if not self.answered:
            await self._link.send(messages.End(self._id))


CHUNK_SIZE = DAEMON_WINDOW // 4
"""Bytes of data in one chunk: enough of them fit in a window to keep both sides busy."""
