# SPDX-License-Identifier: GPL-3.0-or-later
"""What the spawner prepares once, so that no child has to.

Entry point: `Kit`.
"""

import ctypes
import os
import struct
from collections.abc import Callable

from builder.container import DEVICES
from builder.spawner.identity import last_capability
from builder.spawner.landlock import make_ruleset
from builder.spawner.mounts import DeviceTemplate, make_device_template
from builder.spawner.network import LoopbackMessage
from builder.spawner.seccomp import filter_for
from builder.spawner.uplink_filter import uplink_filter_for


class Filter:
    """A filter of system calls in memory, as prctl(2) takes it.

    Args:
        program: An array of ``struct sock_filter``.
    """

    def __init__(self, program: bytes) -> None:
        self._program = ctypes.create_string_buffer(program, len(program))
        count, address = len(program) // 8, ctypes.addressof(self._program)
        self._header = ctypes.create_string_buffer(struct.pack("@HP", count, address))
        self.address = ctypes.addressof(self._header)


class Kit:
    """Descriptors and data that children inherit by the fork.

    Attributes:
        proc: A descriptor of the host's ``/proc``.
        dev: Of its ``/dev``.
        privileged: Whether this is root.
        filter: The filter of system calls, None on a machine that has none.
        uplink_filter: Likewise for what brings a network.
        landlock: The descriptor of a ruleset, or -1.
        devices: The device directory most containers have, where it can be copied.
        loopback: The request that brings up the loopback interface.
        last_capability: The highest that the kernel knows.
    """

    def __init__(self) -> None:
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        self.dev = os.open("/dev", os.O_PATH | os.O_DIRECTORY)
        self.loopback = LoopbackMessage()
        self.privileged = os.geteuid() == 0
        self.filter = _filter(filter_for)
        self.uplink_filter = _filter(uplink_filter_for)
        self.landlock = make_ruleset()
        self.devices: DeviceTemplate | None = make_device_template(_usual_devices())
        self.last_capability = last_capability()


def _filter(assemble_for: Callable[[str], bytes]) -> Filter | None:
    try:
        return Filter(assemble_for(os.uname().machine))
    except ValueError:
        return None


def _usual_devices() -> tuple[bytes, ...]:
    nodes = {*DEVICES, "kvm"} if os.path.exists("/dev/kvm") else set(DEVICES)
    return tuple(sorted(node.encode() for node in nodes))
