# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps one more build from starting on a busy machine. Pure.

Entry points: `AdmissionSettings`, `obstacle`.
"""

from dataclasses import dataclass

from builder.admission.machine import MachineState

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """What the machine must be like for one more build to start; 0 for no matter.

    Attributes:
        load: The load average it must be below.
        cpu_pressure: The pressure on processors it must be below, in percent.
        memory_pressure: Likewise for memory.
        io_pressure: Likewise for disks.
        spare_memory: Bytes that must be available beside what builds are known to need.
    """

    load: float = 0.0
    cpu_pressure: float = 0.0
    memory_pressure: float = 0.0
    io_pressure: float = 0.0
    spare_memory: int = 0


ANY_MACHINE = AdmissionSettings()
"""Builds start whatever the machine is like, but for what memory they are known to need."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a build does not start: what it waits for, and how things stand."""

    what: str
    holder: str


def obstacle(
    settings: AdmissionSettings, machine: MachineState, expected: int, reserved: int
) -> Obstacle | None:
    """Return what keeps a build from starting, or None.

    Args:
        settings: What the machine must be like.
        machine: What it is like.
        expected: Bytes of memory that the build will need, as far as is known.
        reserved: Bytes that running builds will still take.
    """
    free = machine.available_memory - reserved
    if expected and free < expected + settings.spare_memory:
        return Obstacle(
            "memory",
            f"{_mib(max(free, 0))} are free, and it needed {_mib(expected)} the last time",
        )
    if machine.available_memory and free < settings.spare_memory:
        return Obstacle("memory", f"only {_mib(max(free, 0))} are free")
    for name, value, most, unit in (
        ("load", machine.load, settings.load, ""),
        ("pressure on processors", machine.cpu_pressure, settings.cpu_pressure, " %"),
        ("pressure on memory", machine.memory_pressure, settings.memory_pressure, " %"),
        ("pressure on disks", machine.io_pressure, settings.io_pressure, " %"),
    ):
        if most and value >= most:
            return Obstacle(name, f"it is {value:g}{unit}, and must be below {most:g}{unit}")
    return None


def _mib(size: int) -> str:
    return f"{size / _MIB:.0f} MiB"
