# SPDX-License-Identifier: GPL-3.0-or-later
"""The spawner's loop: a request comes, a process is made, the reply goes.

The spawner decides nothing about builds. It must never have a thread.
"""

import errno
import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress

from builder.spawner import DOUBLED
from builder.spawner.calls import Channels, launch, mount_procs
from builder.spawner.child import Setup, report, run
from builder.spawner.clone import Cloner, namespace_flags
from builder.spawner.identity import clear_ambient, drop_bounding_set, map_groups
from builder.spawner.kit import Kit
from builder.spawner.messages import (
    CODEC,
    Joined,
    SetupFailure,
    Spawned,
    SpawnRefused,
    SpawnRequest,
)
from builder.spawner.program import UnsuitableProgramError
from builder.spawner.room import Home
from builder.spawner.script import Guest, Script, unpack
from builder.spawner.syscalls import reset_ignored_signals
from locker.channel import Channel, close_all
from locker.errors import ChannelClosedError
from locker.start import adopt_channel

_MOMENT = 0.0004
"""Seconds for which a new container is left alone; a trivial build takes as long."""

_SETUP_ERRORS = (OSError, UnsuitableProgramError, RuntimeError)


def main() -> None:
    """Serve until the daemon closes the channel."""
    with adopt_channel(CODEC, "spawner") as channel:
        reset_ignored_signals()
        signal.signal(signal.SIGPIPE, _disregard)  # a status pipe may be closed at any time
        os.umask(0)  # containers state exact modes
        clear_ambient()
        kit = Kit()
        if kit.privileged:
            drop_bounding_set(kit.last_capability)
        spawner = Spawner(channel, kit, Home(kit.proc) if kit.privileged else None)
        doubles = sys.argv[1:] == [DOUBLED]
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            if doubles:
                spawner.serve_one()
                spawner.double()
            while True:
                spawner.serve_one()
        except ChannelClosedError:
            kit.loopback.close()


class Spawner:
    """Makes containers for the requests of a channel.

    Args:
        channel: To the daemon.
        kit: What children need.
        home: Makes it possible to prepare namespaces; None where privileges are missing.
    """

    def __init__(self, channel: Channel, kit: Kit, home: Home | None) -> None:
        self._channel = channel
        self._kit = kit
        self._home = home
        self._cloner = Cloner()
        self._begun: Setup | None = None

    def serve_one(self) -> None:
        """Take one request and answer it."""
        request, fds = self._channel.receive()
        script = unpack(request.script)
        setup = self._setup_for(script)
        try:
            reply, pidfds = self._spawn(request.number, script, setup, _channels(request, fds))
        finally:
            close_all(fds)  # before the reply: who gets that waits for the status pipe to close
        self._channel.send(reply, pidfds)
        close_all(pidfds)
        setup.close()
        if isinstance(reply, SpawnRefused):
            gc.collect()  # it does not run by itself, and errors may leave cycles
        if self._home is not None and self._home.away:
            self._await_leisure()
            self._prepare_room(self._home, script)

    def double(self) -> None:
        """Go on as two processes, each of which serves a channel of its own.

        One stands still while it launches a container, and another time while it makes
        namespaces, for which the kernel has it wait; two have the next container made
        meanwhile. This comes after the first container, so that a daemon that builds nothing
        has one process less. Where the second cannot be made, one it remains.
        """
        self._stay_at_home()
        with suppress(OSError, RuntimeError):
            self._kit.loopback.get()  # only this process can fetch it
            self._clone_itself()

    def _stay_at_home(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.close()
        if self._home is not None:
            self._home.return_home()

    def _clone_itself(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            pid, pidfd = self._cloner.clone(0)
            if pid == 0:
                self._channel.close()
                self._channel = Channel(theirs, CODEC)
                return
            theirs.close()
            self._channel.send(Joined(pid), (pidfd, ours.fileno()))
        os.close(pidfd)

    def _setup_for(self, script: Script) -> Setup:
        """Give what sets a container up: what was begun in advance, if it suits."""
        begun, self._begun = self._begun, None
        home = self._home
        if home is None:
            return Setup(self._kit, script)
        if begun is not None:
            if home.away and _fits_a_room(script) and begun.suits(script):
                begun.take_over(script)
                return begun
            begun.close()
            home.return_home()
        return Setup(self._kit, script, home if _fits_a_room(script) else None)

    def _spawn(
        self, number: int, script: Script, setup: Setup, channels: Channels
    ) -> tuple[Spawned | SpawnRefused, tuple[int, ...]]:
        try:
            if script.network:
                self._kit.loopback.get()
            if _fits_a_room(script) and self._enter_room():
                pid, pidfd = self._let_room(script, setup, channels)
            else:
                pid, pidfd = self._build_house(script, setup, channels)
        except _SETUP_ERRORS as error:
            return SpawnRefused(number, setup.failure(error)), ()
        return Spawned(number, pid), (pidfd,)

    def _enter_room(self) -> bool:
        """Make sure to be in new namespaces; False where that cannot be."""
        home = self._home
        if home is None:
            return False
        if not home.away:
            home.enter_room(self._kit.loopback.get())
        return True

    def _await_leisure(self) -> None:
        """Wait for what is done in advance not to compete with the container just made.

        A trivial one has ended by then, or the next one is asked for. To be woken by its
        end would not do: the processors are taken then, by it and by the daemon.
        """
        select.select((self._channel,), (), (), _MOMENT)

    def _prepare_room(self, home: Home, last: Script) -> None:
        """Move on to the next container's namespaces, while nobody waits.

        Who has not asked for a room now is not likely to ask for one next; and the next
        container is likely to begin as the last one did.
        """
        home.return_home()
        begun = Setup(self._kit, last, home)
        try:
            home.enter_room(self._kit.loopback.get())
            if last.groundwork.root is None:  # nothing is done to the host's files in advance
                begun.begin()
                self._begun = begun
            home.step_out()
        except (OSError, RuntimeError):
            # It is tried again when it is needed, and its failure then has a reader.
            begun.close()
            home.return_home()

    def _let_room(self, script: Script, setup: Setup, channels: Channels) -> tuple[int, int]:
        """Furnish the room that this process is in, and launch its first inhabitant."""
        setup.furnish()
        calls = [*mount_procs(self._kit, script), *setup.plan(channels)]
        setup.step = "clone"
        pid, pidfd, failure = launch(calls)
        if failure is not None:
            call = failure.call
            told = SetupFailure(call.step, failure.errno, failure.text, call.operation)
            report(told, channels.status)
        return pid, pidfd

    def _build_house(self, script: Script, setup: Setup, channels: Channels) -> tuple[int, int]:
        """Clone a process that makes everything itself."""
        if self._home is not None:
            self._home.return_home()
        flags = namespace_flags(
            isolated=script.isolated and not (script.uplink and script.uplink.joins),
            network=script.network,
            user=script.guest is not None,
        )
        mapped, tell = os.pipe() if script.guest and script.guest.more_gids else (-1, -1)
        try:
            pid, pidfd = self._cloner.clone(flags)
            if pid == 0:
                run(
                    lambda: _do_all(script, setup, channels, (mapped, tell)), setup, channels.status
                )
            if script.guest and script.guest.more_gids:
                self._map_groups(pid, script.guest, tell)
        finally:
            for fd in (mapped, tell):
                if fd >= 0:
                    os.close(fd)
        return pid, pidfd

    def _map_groups(self, pid: int, guest: Guest, tell: int) -> None:
        """Map the groups of a process that waits for it; without an answer it gives up."""
        with suppress(OSError):
            map_groups(pid, guest.gid_map, guest.more_gids, self._kit.proc)
            os.write(tell, b"\n")


def _fits_a_room(script: Script) -> bool:
    """Tell whether it may be launched; the spawner stands still until that has its program."""
    return script.network and script.guest is None and not script.gated


def _do_all(script: Script, setup: Setup, channels: Channels, pipe: tuple[int, int]) -> None:
    setup.step = "user-namespace"
    mapped, tell = pipe
    if mapped >= 0:
        os.close(tell)
        if not os.read(mapped, 1):
            raise PermissionError(errno.EPERM, "the groups could not be mapped")
    setup.detach()
    if script.gated:
        setup.announce(channels.more)
    if script.isolated:
        setup.furnish()
        setup.enter_root()
        setup.mount_procs()
        setup.leave_host()
    if script.gated:
        setup.await_network(channels.more)
    calls = setup.plan(channels)
    setup.lock_mounts()
    setup.carry_out(calls)


def _disregard(_number: int, _frame: object) -> None:
    """Take a signal without effect."""


def _channels(request: SpawnRequest, fds: tuple[int, ...]) -> Channels:
    stdout, status, *rest = fds
    stdin = rest.pop(0) if request.has_stdin else -1
    return Channels(stdin, stdout, status, rest[0] if rest else -1)
