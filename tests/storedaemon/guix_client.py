# SPDX-License-Identifier: GPL-3.0-or-later
"""A blocking client of the Guix dialect, for tests and benchmarks.

It speaks through `storedaemon.wire.guix_client` over a Unix socket, one request
at a time, and keeps the texts that the daemon shows.
"""

import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from builder.options import BuildMode
from storedaemon.wire import guix
from storedaemon.wire import messages as m
from storedaemon.wire.guix_client import (
    DaemonHello,
    DataWanted,
    Event,
    Failed,
    Finished,
    GuixClientSession,
    LogText,
)


class RequestFailedError(Exception):
    """The daemon answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class ConnectionEndedError(Exception):
    """The daemon closed the connection where an answer was due."""


class GuixClient:
    """A connection to a daemon.

    Args:
        address: The daemon's socket file, or a connected socket.
        version: The version to speak.

    Attributes:
        output: The texts that the daemon showed, in order.
    """

    def __init__(self, address: Path | str | socket.socket, version: int = guix.VERSION) -> None:
        self.socket = address if isinstance(address, socket.socket) else _connect(str(address))
        self.output: list[bytes] = []
        self._wire = GuixClientSession(version)

    def __enter__(self) -> Self:
        self.socket.sendall(self._wire.start())
        hello = self._next()
        assert isinstance(hello, DaemonHello)
        self.socket.sendall(self._wire.introduce())
        self._finish()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def call(self, request: m.Request, body: Iterable[bytes | memoryview] = ()) -> m.Reply:
        """Make a request, and wait for its reply.

        Raises:
            RequestFailedError: The daemon answered with an error.
            ConnectionEndedError: It did not answer.
        """
        self.socket.sendall(self._wire.request(request))
        for piece in body:
            self.socket.sendall(piece)
        return self._finish()

    def send_only(self, request: m.Request) -> None:
        """Make a request without waiting for anything."""
        self.socket.sendall(self._wire.request(request))

    def wait(self) -> m.Reply:
        """Wait for the reply to what `send_only` asked."""
        return self._finish()

    @property
    def text(self) -> str:
        """All texts that the daemon showed, in one."""
        return b"".join(self.output).decode("utf-8", "backslashreplace")

    def is_valid(self, path: str) -> bool:
        """Ask whether an item is registered."""
        reply = self.call(m.IsValidPath(path))
        assert isinstance(reply, m.Truth)
        return reply.value

    def path_info(self, path: str) -> m.PathInfoReply:
        """Ask what is known of an item."""
        reply = self.call(m.QueryPathInfo(path))
        assert isinstance(reply, m.PathInfoReply)
        return reply

    def references(self, path: str) -> tuple[str, ...]:
        """Ask what an item refers to."""
        return self._texts(m.QueryReferences(path))

    def referrers(self, path: str) -> tuple[str, ...]:
        """Ask what refers to an item."""
        return self._texts(m.QueryReferrers(path))

    def derivation_outputs(self, path: str) -> tuple[str, ...]:
        """Ask for a derivation's outputs."""
        return self._texts(m.QueryDerivationOutputs(path))

    def valid_paths(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Ask which of some items are registered."""
        return self._texts(m.QueryValidPaths(tuple(paths)))

    def all_valid_paths(self) -> tuple[str, ...]:
        """Ask for all registered items."""
        return self._texts(m.QueryAllValidPaths())

    def add_text(self, name: str, text: bytes, references: Sequence[str] = ()) -> str:
        """Add a text; give its path."""
        return self._text(m.AddTextToStore(name, text, tuple(references)))

    def add_nar(
        self,
        name: str,
        archive: Iterable[bytes | memoryview],
        *,
        recursive: bool = True,
        algorithm: str = "sha256",
    ) -> str:
        """Add what an archive holds; give its path."""
        reply = self.call(m.AddToStore(name, recursive, algorithm), archive)
        assert isinstance(reply, m.TextReply)
        return reply.value

    def add_temp_root(self, path: str) -> None:
        """Keep an item for as long as this connection lasts."""
        self.call(m.AddTempRoot(path))

    def build(self, *paths: str, mode: BuildMode = BuildMode.NORMAL) -> None:
        """Have derivations built."""
        self.call(m.BuildPaths(paths, mode))

    def set_options(
        self,
        *,
        keep_failed: bool = False,
        keep_going: bool = False,
        verbosity: int = 0,
        build_verbosity: int = 0,
        print_build_trace: bool = True,
        use_build_hook: bool = True,
        **settings: str | int,
    ) -> None:
        """Set options; settings are named with underscores for dashes."""
        pairs = tuple((name.replace("_", "-"), str(value)) for name, value in settings.items())
        old = guix.minor(self._wire.version) < guix.SETTINGS_ONLY
        self.call(
            m.SetOptions(
                keep_failed=keep_failed,
                keep_going=keep_going,
                fallback=False,
                verbosity=verbosity,
                build_verbosity=build_verbosity,
                print_build_trace=print_build_trace,
                use_substitutes=False,
                use_build_hook=use_build_hook,
                settings=pairs,
                max_jobs=1 if old else None,
                max_silent_time=0 if old else None,
                build_cores=0 if old else None,
            )
        )

    def _texts(self, request: m.Request) -> tuple[str, ...]:
        reply = self.call(request)
        assert isinstance(reply, m.TextsReply)
        return reply.values

    def _text(self, request: m.Request) -> str:
        reply = self.call(request)
        assert isinstance(reply, m.TextReply)
        return reply.value

    def _finish(self) -> m.Reply:
        while True:
            event = self.next_event()
            if isinstance(event, DataWanted):
                self.socket.sendall(self._wire.chunk(b""))
            elif isinstance(event, Failed):
                raise RequestFailedError(event.message, event.status)
            elif isinstance(event, Finished):
                return event.reply

    def next_event(self) -> Event:
        """Wait for the next event; what the daemon shows is kept in `output` too."""
        event = self._next()
        if isinstance(event, LogText):
            self.output.append(event.data)
        return event

    def _next(self) -> Event:
        while (event := self._wire.next_event()) is None:
            data = self.socket.recv(64 * 1024)
            if not data:
                raise ConnectionEndedError
            self._wire.receive_data(data)
        return event


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
