# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a network into a container that awaits one: slirp4netns, beside the builder.

It carries the packets of one container, as an ordinary user of the host's network, and
ends with it. It sees its own program, and nothing of the host that it could change; what
it may ask of the kernel is in `builder.spawner.uplink_filter`, and before it reads the
first packet it gives up the privileges it started with.

Entry points: `uplink_container`, pure; `gated` before a builder is spawned, and `connected`
while it runs.
"""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)

import trio

from builder.container import (
    ALL_NAMESPACES,
    Bind,
    Command,
    Container,
    Directory,
    File,
    Namespace,
    Operation,
    UplinkIdentity,
    arrange,
)
from builder.errors import BuildError
from builder.events import FailureKind
from builder.network import TUN, Network
from builder.spawner.client import SpawnedProcess, Spawner, SpawnError
from reaper.process import Process

START_SECONDS = 30
_TARGET = (b"--netns-type=path", b"/proc/self/fd/3", b"tap0")
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/gnu/store", "/nix/store")
_MESSAGE = 4096


class UplinkError(Exception):
    """A network could not be brought to a builder; the message says why."""


def uplink_container(network: Network, pid: int, store: str) -> Container:
    """Describe the process that brings a network.

    Args:
        network: What to bring.
        pid: The first process of the container that awaits it.
        store: The store, where programs may lie.
    """
    assert network.survey is not None, "an uplink is made of what there is"
    program = os.path.realpath(network.survey.slirp4netns)
    arguments = [b"slirp4netns", b"--configure", b"--enable-sandbox", b"--ready-fd=0"]
    if network.survey.ipv6:
        arguments.append(b"--enable-ipv6")
    if not network.host_loopback:
        arguments.append(b"--disable-host-loopback")
    return Container(
        command=Command(os.fsencode(program), (*arguments, *_TARGET)),
        identity=UplinkIdentity(pid),
        operations=arrange(_operations(network, program, store)),
        namespaces=tuple(each for each in ALL_NAMESPACES if each is not Namespace.NETWORK),
    )


def _operations(network: Network, program: str, store: str) -> Iterator[Operation]:
    for path in dict.fromkeys((*_PROGRAMS, store)):
        yield Bind(path, path, optional=True)
    if not any(program.startswith(f"{path}/") for path in (*_PROGRAMS, store)):
        yield Bind(program, program)
    yield Bind("/etc/ld.so.cache", "/etc/ld.so.cache", optional=True)
    if network.survey is not None and network.survey.resolv_conf is not None:
        yield File("/etc/resolv.conf", network.survey.resolv_conf)
    # Without a PID namespace no proc can be mounted. It soon leaves all this behind, for a
    # root that has nothing but /etc and /run.
    yield Bind("/proc", "/proc")
    yield Bind(TUN, TUN, devices=True)
    yield Directory("/run")
    yield Directory("/tmp")  # noqa: S108 - of the container


class Gate:
    """What a builder waits at until its network is there.

    Attributes:
        inner: The end that goes to the spawner, to be closed by `close_inner`.
    """

    def __init__(self, network: Network, store: str) -> None:
        self._network = network
        self._store = store
        ours, theirs = socket.socketpair()
        self._outer = trio.socket.from_stdlib_socket(ours)
        self.inner = theirs.detach()

    def close_inner(self) -> None:
        """Close the spawner's end here, so that the end of the builder is seen."""
        if self.inner >= 0:
            os.close(self.inner)
            self.inner = -1

    def close(self) -> None:
        """Let go of it; a builder that waits will wait no longer, and fail."""
        self.close_inner()
        self._outer.close()

    @asynccontextmanager
    async def open(self, spawner: Spawner, builder: Process) -> AsyncIterator[None]:
        """Bring the network, let the builder go on, and keep the network while inside.

        Raises:
            UplinkError: It cannot be brought.
        """
        if not await self._outer.recv(1):
            yield  # the container could not be set up so far, which its own report tells
            return
        container = uplink_container(self._network, builder.pid, self._store)
        async with _started(spawner, container, builder.pid):
            await self._let_go_on()
            yield

    async def _let_go_on(self) -> None:
        with suppress(BrokenPipeError):  # it has failed meanwhile, and tells so itself
            await self._outer.send(b"\n")


def gated(
    container: Container, network: Network, store: str
) -> AbstractContextManager[Gate | None]:
    """Give the gate for a container that awaits its network; None for others."""
    return closing(Gate(network, store)) if container.awaits_network else nullcontext()


def connected(
    gate: Gate | None, spawner: Spawner, spawned: SpawnedProcess, drv: str
) -> AbstractAsyncContextManager[None]:
    """Have the network that a container awaits, if it does, while inside.

    Raises:
        BuildError: It cannot be brought.
    """
    return nullcontext() if gate is None else _connected(gate, spawner, spawned, drv)


@asynccontextmanager
async def _connected(
    gate: Gate, spawner: Spawner, spawned: SpawnedProcess, drv: str
) -> AsyncIterator[None]:
    gate.close_inner()
    try:
        async with gate.open(spawner, spawned.process):
            yield
    except UplinkError as error:
        raise BuildError(f"no network for `{drv}': {error}", FailureKind.TRANSIENT) from error


@asynccontextmanager
async def _started(spawner: Spawner, container: Container, pid: int) -> AsyncIterator[None]:
    ready, told = os.pipe2(os.O_CLOEXEC)
    output, end = os.pipe2(os.O_CLOEXEC)
    async with trio.lowlevel.FdStream(ready) as signal, trio.lowlevel.FdStream(output) as text:
        try:
            with _network_of(pid) as network:
                spawned = await spawner.spawn(
                    container, stdout_fd=end, stdin_fd=told, more_fd=network
                )
        except (SpawnError, OSError) as error:
            raise UplinkError(f"cannot start `slirp4netns': {error}") from error
        finally:
            os.close(told)
            os.close(end)
        try:
            await _await_ready(spawned, signal, text)
            await text.aclose()  # what it says from now on interests nobody
            yield
        finally:
            spawned.process.kill()
            with trio.CancelScope(shield=True):
                await spawned.process.wait()


@contextmanager
def _network_of(pid: int) -> Iterator[int]:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


async def _await_ready(
    spawned: SpawnedProcess, signal: trio.abc.ReceiveStream, text: trio.abc.ReceiveStream
) -> None:
    try:
        await spawned.setup
    except SpawnError as error:
        raise UplinkError(f"cannot start `slirp4netns': {error}") from error
    with trio.move_on_after(START_SECONDS):
        if await signal.receive_some(1):
            return
        said = b""
        while chunk := await text.receive_some(_MESSAGE):
            said = (said + chunk)[-_MESSAGE:]
        last = said.decode(errors="replace").strip().splitlines()[-3:]
        raise UplinkError(f"`slirp4netns' failed: {'; '.join(last) or 'without a word'}")
    raise UplinkError(f"`slirp4netns' was not ready after {START_SECONDS} seconds")
