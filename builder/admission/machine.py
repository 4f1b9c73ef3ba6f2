# SPDX-License-Identifier: GPL-3.0-or-later
"""How busy the machine is: load, pressure and free memory, as the kernel tells.

Entry points: `MachineReader`, `look`. What a
kernel does not tell (pressure before Linux 4.20, or switched off) counts as none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from builder.kernel_files import Read, entry, read_optional, read_text
from builder.memory.group import room_below
from builder.memory.places import Place

_LOAD = "/proc/loadavg"
_MEMORY = "/proc/meminfo"
_EVENTS = "/proc/vmstat"
_PRESSURE = "/proc/pressure"
_KIB = 1024


@dataclass(frozen=True, slots=True)
class MachineState:
    """A look at the machine.

    Attributes:
        load: The load average of the last minute.
        cpu_pressure: The share of the last 10 s, in percent, in which some task waited for
            a processor.
        memory_pressure: Likewise for memory.
        io_pressure: Likewise for a disk.
        available_memory: Bytes that can be had without swapping, by the machine and by the
            limits of the cgroups that this process is in.
        oom_kills: Processes that the kernel has ended for want of memory, since its start.
    """

    load: float = 0.0
    cpu_pressure: float = 0.0
    memory_pressure: float = 0.0
    io_pressure: float = 0.0
    available_memory: int = 0
    oom_kills: int = 0


class MachineReader:
    """Looks at the machine, as seldom as is enough.

    Args:
        clock: Seconds of a clock that does not jump.
        read: Gives the text of a file; raises OSError.
        lasting: Seconds for which a look is good; the kernel's averages move every two.
        place: The cgroup whose limits hold for builds, if any.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        read: Read | None = None,
        lasting: float = 0.5,
        place: Place | None = None,
    ) -> None:
        self._clock = clock
        self._place = place
        self._read = read or read_text
        self._lasting = lasting
        self._looked = float("-inf")
        self._state = MachineState()

    def state(self) -> MachineState:
        """Return a look that is not older than `lasting`."""
        now = self._clock()
        if now - self._looked >= self._lasting:
            self._state = look(self._read, self._place)
            self._looked = now
        return self._state


def look(read: Read, place: Place | None = None) -> MachineState:
    """Read the state of the machine now."""
    available = _KIB * entry(read_optional(_MEMORY, read), "MemAvailable:")
    if place is not None:
        room = room_below(place.ancestry, place.version, read)
        available = available if room is None else min(available, room)
    return MachineState(
        load=_number(read_optional(_LOAD, read).partition(" ")[0]),
        cpu_pressure=_pressure(read_optional(f"{_PRESSURE}/cpu", read)),
        memory_pressure=_pressure(read_optional(f"{_PRESSURE}/memory", read)),
        io_pressure=_pressure(read_optional(f"{_PRESSURE}/io", read)),
        available_memory=available,
        oom_kills=entry(read_optional(_EVENTS, read), "oom_kill"),
    )


def _pressure(text: str) -> float:
    """Give what ``some avg10=`` says in a file of /proc/pressure."""
    for line in text.splitlines():
        if line.startswith("some "):
            return _number(line.partition("avg10=")[2].partition(" ")[0])
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
