# SPDX-License-Identifier: GPL-3.0-or-later
"""From namespaces to exec: what becomes of a script.

A `Setup` does the steps and knows how far it is. Where namespaces can be made in advance, the
spawner furnishes them itself, and only the calls of `Setup.plan` are left to the container's
first process; otherwise, that process does everything.

Entry points: `Setup`; `run` for a process that must not return to the spawner's loop, and
`report`.
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from builder.spawner import identity, mounts, network, program, root
from builder.spawner.ahead import Ahead, work_ahead
from builder.spawner.calls import Call, Channels, mount_procs, perform, plan
from builder.spawner.kit import Kit
from builder.spawner.messages import STATUS_CODEC, SetupFailure
from builder.spawner.room import Home
from builder.spawner.script import Script, Step
from builder.spawner.syscalls import setdomainname, sethostname
from builder.spawner.terminal import open_terminal

_FETCHED_AT_ONCE = 64  # steps for which things of the host are open at a time


class Setup:
    """The setting up of one container; `step` is the one that is going on.

    Args:
        kit: What was prepared.
        script: The container.
        home: What leads into the room where it is set up, and back to the host; None where
            this process sees both.
    """

    def __init__(self, kit: Kit, script: Script, home: Home | None = None) -> None:
        self.step = "clone"
        self._operation: int | None = None
        self._kit = kit
        self._script = script
        self._home = home
        self._root = -1
        self._workshop: mounts.Workshop | None = None
        self._ahead = Ahead()

    def detach(self) -> None:
        """Separate new namespaces from the host's, from within."""
        guest = self._script.guest
        if guest is not None:
            self.step = "user-namespace"
            gid_map = b"" if guest.more_gids else guest.gid_map
            identity.map_ids(guest.uid_map, gid_map, self._kit.proc)
        uplink = self._script.uplink
        if uplink is not None and uplink.joins:
            self.step = "user-namespace"
            identity.join(uplink.pid, self._kit.proc)
        if self._script.isolated:
            self.step = "private-mounts"
            root.detach_from_host()
        if self._script.network:
            self.step = "loopback"
            network.bring_up(self._kit.loopback.get())

    def suits(self, script: Script) -> bool:
        """Tell whether what was done so far is what another script begins with."""
        return self._script.groundwork == script.groundwork and self._ahead.suits(script)

    def take_over(self, script: Script) -> None:
        """Go on by another script, which this suits."""
        self.step = "clone"
        self._script = script

    def lay_groundwork(self) -> None:
        """Make the root, and in it what the script begins with."""
        groundwork = self._script.groundwork
        self.step = "host-name"
        sethostname(groundwork.host_name, len(groundwork.host_name))
        setdomainname(groundwork.domain_name, len(groundwork.domain_name))
        self.step = "root"
        self._root = self._place_root(groundwork.root)
        self._workshop = mounts.Workshop(self._root, self._kit.proc, self._kit.devices)
        self._execute(self._workshop, groundwork.steps)

    def begin(self) -> None:
        """Make what the next script is likely to begin with, as this one does."""
        self.lay_groundwork()
        assert self._workshop is not None
        self._ahead = work_ahead(self._workshop, self._script)

    def _place_root(self, path: bytes | None) -> int:
        if self._home is None:
            place = root.open_root(path)
            root.place_root(place)
            return place
        if path is not None:
            self._home.step_out()
        place = root.open_root(path)
        self._home.step_in()
        root.place_root(place)
        root.stand_on(place)
        return place

    def furnish(self) -> None:
        """Make what is in the root, but for proc."""
        script = self._script
        if self._workshop is None:
            self.lay_groundwork()
        workshop = self._workshop
        assert workshop is not None
        self._execute(workshop, self._ahead.remaining(workshop, script))
        for position, parent, name in script.procs:
            self._operation = position
            workshop.make_place(parent, name)
        self._operation = None
        workshop.close()
        self.step = "root"
        os.fchdir(self._root)
        os.chmod(".", script.root_mode)

    def enter_root(self) -> None:
        """Make the root that of the mount namespace, too, with the host's still there."""
        self.step = "enter-root"
        root.enter_root(self._root)

    def announce(self, gate: int) -> None:
        """Tell that the network can be brought."""
        self.step = "network"
        os.write(gate, b"\n")

    def await_network(self, gate: int) -> None:
        """Wait until the network has been brought.

        Raises:
            OSError: Nobody is going to.
        """
        self.step = "network"
        if not os.read(gate, 1):
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        if not self._script.loopback:
            network.route_loopback(self._kit.proc)

    def _execute(self, workshop: mounts.Workshop, steps: Sequence[Step]) -> None:
        self.step = "operation"
        for at in range(0, len(steps), _FETCHED_AT_ONCE):
            some = steps[at : at + _FETCHED_AT_ONCE]
            self._fetch(workshop, [step for step in some if workshop.must_fetch(step)])
            if self._home is not None:
                self._home.step_in()
            for step in some:
                self._operation = step[0]
                workshop.execute(step)
        self._operation = None

    def _fetch(self, workshop: mounts.Workshop, steps: list[Step]) -> None:
        if steps and self._home is not None:
            self._home.step_out()
        for step in steps:
            self._operation = step[0]
            workshop.fetch(step)

    def close(self) -> None:
        """Close what was opened, in a process that goes on."""
        if self._workshop is not None:
            self._workshop.close()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def mount_procs(self) -> None:
        """Mount proc, in a process of the container's own."""
        self.carry_out(mount_procs(self._kit, self._script))

    def leave_host(self) -> None:
        """Let go of the host's mounts."""
        self.step = "leave-host"
        root.leave_host()

    def plan(self, channels: Channels) -> list[Call]:
        """List the calls up to the execution of the program, from within the new root."""
        if self._script.terminal is not None:
            self.step = "terminal"
            terminal = open_terminal(self._script, channels.stdin)
            channels = channels._replace(terminal=terminal)
        self.step = "program"
        script = self._script
        path = program.resolve(script.program, script.beneath, self._kit.proc)
        self.step = "seccomp"
        return plan(self._kit, script, path, channels)

    def lock_mounts(self) -> None:
        """Keep a guest from taking its mounts apart, where it must not."""
        guest = self._script.guest
        if guest is not None and guest.lock_mounts:
            self.step = "lock-mounts"
            identity.lock_mounts(guest.locked_uid_map, guest.locked_gid_map, self._kit.proc)

    def failure(self, error: Exception) -> SetupFailure:
        """Describe what went wrong."""
        if isinstance(error, OSError) and error.errno:
            return SetupFailure(self.step, error.errno, str(error.strerror), self._operation)
        return SetupFailure(self.step, 0, str(error) or repr(error), self._operation)

    def carry_out(self, calls: list[Call]) -> None:
        """Make calls in this process.

        Raises:
            OSError: One failed.
        """
        failure = perform(calls)
        if failure is not None:
            self.step, self._operation = failure.call.step, failure.call.operation
            raise OSError(failure.errno, failure.text)


def report(failure: SetupFailure, status: int) -> None:
    """Tell the daemon, unless it has stopped caring."""
    with suppress(BrokenPipeError):
        os.write(status, STATUS_CODEC.encode(failure))


def run(action: Callable[[], object], setup: Setup, status: int) -> NoReturn:
    """Run what a new process has to do until the exec, and report if it does not get there."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the daemon must hear of it
        report(setup.failure(error), status)
    finally:
        os._exit(1)
