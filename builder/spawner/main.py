# SPDX-License-Identifier: GPL-3.0-or-later
"""The spawner's loop: a request comes, a process is made, the reply goes.

The spawner decides nothing. It must never have a thread.
"""

import gc
import os
import signal

from builder.spawner.child import Channels, Child, run
from builder.spawner.clone import Cloner, namespace_flags
from builder.spawner.identity import clear_ambient, drop_bounding_set
from builder.spawner.kit import Kit
from builder.spawner.messages import CODEC, Spawned, SpawnRefused, SpawnRequest
from builder.spawner.script import Script, translate
from locker.channel import Channel
from locker.errors import ChannelClosedError
from locker.start import adopt_channel


def main() -> None:
    """Serve until the daemon closes the channel."""
    with adopt_channel(CODEC, "spawner") as channel:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # what Python ignores, builders would too
        os.umask(0)  # containers state exact modes
        clear_ambient()
        spawner = Spawner(channel, Kit())
        if os.geteuid() == 0:
            drop_bounding_set(spawner.kit.last_capability)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while True:
                spawner.serve_one()
        except ChannelClosedError:
            return


class Spawner:
    """Makes containers for the requests of a channel."""

    def __init__(self, channel: Channel, kit: Kit) -> None:
        self.kit = kit
        self._channel = channel
        self._cloner = Cloner()

    def serve_one(self) -> None:
        """Take one request and answer it."""
        request, fds = self._channel.receive()
        try:
            self._spawn(request, _channels(request, fds))
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, request: SpawnRequest, channels: Channels) -> None:
        script = translate(request.container)
        flags = namespace_flags(
            isolated=script.isolated, network=script.network, user=script.guest is not None
        )
        try:
            if script.network:
                self.kit.loopback.get()
            pid, pidfd = self._cloner.clone(flags)
        except (OSError, RuntimeError) as error:
            code = error.errno if isinstance(error, OSError) else None
            self._channel.send(SpawnRefused(request.number, code or 0, str(error)))
            return
        if pid == 0:
            child = Child(self.kit)
            run(lambda: _live(child, script, channels), child, channels.status)
        self._channel.send(Spawned(request.number, pid), (pidfd,))
        os.close(pidfd)


def _live(child: Child, script: Script, channels: Channels) -> None:
    child.prepare(isolated=script.isolated, network_too=script.network)
    child.become(script, channels)


def _channels(request: SpawnRequest, fds: tuple[int, ...]) -> Channels:
    stdout, status, *rest = fds
    return Channels(rest[0] if request.has_stdin else -1, stdout, status)
