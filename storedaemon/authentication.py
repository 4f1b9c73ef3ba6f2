# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures, by a program that is kept alive: ``guix authenticate``, or our own in its place.

The program serves one request at a time, so requests take turns. It is started
when first needed, and anew when it has died, was left in the middle of a
request, or when the files of keys have changed: Guix's reads the access-control
list only once. Entry point: `Authenticator`.
"""

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import trio

from builder.agents import Agent, AgentError, Program, open_agent
from locker.start import helper_environment
from reaper.monitor import ProcessMonitor
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.signatures.keyring import key_files
from store.signatures.keys import SignatureError
from store.signatures.protocol import SUCCESS, ProtocolError, Reply, ReplyReader, Request
from storedaemon.config import Config
from storedaemon.guix_program import find_guix, guix_environment

REQUEST_SECONDS = 60.0
"""How long the program may take; Guix's takes about a second to start."""

_BLOCK = 65536
_MOST_SAID = 300


def authentication_program(config: Config) -> Program:
    """Choose the program: that of Guix if there is one, or else our own."""
    guix = find_guix(config, os.environ)
    if os.access(guix, os.X_OK):
        return Program(guix, ("authenticate",), guix_environment(config, os.environ))
    ours = ("-I", "-m", "store.signatures", config.configuration)
    return Program(sys.executable, ours, helper_environment(os.environ))


class Authenticator:
    """Signs and verifies.

    Args:
        monitor: Reaps the program.
        choose: Says which program to start, whenever it is started.
        files: If one of these changes, the program is started anew.
    """

    def __init__(
        self, monitor: ProcessMonitor, choose: Callable[[], Program], files: Sequence[str]
    ) -> None:
        self._monitor = monitor
        self._choose = choose
        self._files = files
        self._turns = trio.StrictFIFOLock()
        self._stack = AsyncExitStack()
        self._agent: Agent | None = None
        self._known: object = None

    @classmethod
    def of(cls, config: Config, monitor: ProcessMonitor) -> "Authenticator":
        """Make the one that a daemon's configuration asks for."""
        return cls(monitor, lambda: authentication_program(config), key_files(config.configuration))

    async def sign(self, key_file: str, digest: Digest) -> bytes:
        """Sign a sha256 with a secret key.

        Raises:
            StoreError: It cannot be signed (reason ``cannot-sign``).
            AgentError: The program cannot be started, or fails.
        """
        request = Request("sign", (os.fsencode(key_file), digest.base16.encode()))
        reply = await self._ask(request)
        if reply.code != SUCCESS:
            raise StoreError(_text(reply), reason="cannot-sign")
        return reply.text

    async def verify(self, signature: bytes) -> Digest:
        """Check a signature; give the sha256 that it signs.

        Raises:
            SignatureError: It is no good, or nobody's who may sign.
            AgentError: The program cannot be started, or fails.
        """
        reply = await self._ask(Request("verify", (signature,)))
        if reply.code != SUCCESS:
            raise SignatureError(_text(reply))
        return Digest.parse_base16(HashAlgorithm.SHA256, _text(reply))

    async def close(self) -> None:
        """End the program."""
        self._agent = None
        await self._stack.aclose()

    async def _ask(self, request: Request) -> Reply:
        async with self._turns:
            agent = await self._ready_agent()
            try:
                with trio.fail_after(REQUEST_SECONDS):
                    return await _exchange(agent, request)
            except BaseException as error:
                # What it says from here on would answer another request.
                await self.close()
                if isinstance(error, trio.TooSlowError):
                    words = agent.program.words
                    raise AgentError(f"`{words}' did not answer in time") from error
                raise

    async def _ready_agent(self) -> Agent:
        state = _state_of(self._files)
        agent = self._agent
        if agent is not None and (state != self._known or _has_spoken(agent)):
            await self.close()
            agent = None
        if agent is None:
            opened = open_agent(self._monitor, self._choose())
            agent = self._agent = await self._stack.enter_async_context(opened)
            self._known = state
        return agent


async def _exchange(agent: Agent, request: Request) -> Reply:
    reader = ReplyReader()
    try:
        await agent.requests.send_all(request.encode())
        while data := await agent.output.receive_some(_BLOCK):
            reply = reader.feed(data)
            if reply is not None:
                return reply
    except (trio.BrokenResourceError, ProtocolError) as error:
        raise AgentError(f"`{agent.program.words}' failed{_last_words(reader)}") from error
    raise AgentError(f"`{agent.program.words}' ended{_last_words(reader)}")


def _last_words(reader: ReplyReader) -> str:
    said = reader.said.decode("utf-8", "replace").strip()
    return f": {said[:_MOST_SAID]}" if said else ""


def _has_spoken(agent: Agent) -> bool:
    """Tell whether it said something unasked, or is dead."""
    poll = select.poll()
    poll.register(agent.output.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _state_of(files: Sequence[str]) -> list[tuple[int, ...] | None]:
    return [_state_of_file(file) for file in files]


def _state_of_file(file: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(file)
    except OSError:
        # Whoever needs the file will say what is wrong with it.
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _text(reply: Reply) -> str:
    # Guix writes its texts in this encoding whatever they hold.
    return reply.text.decode("latin-1").strip()
