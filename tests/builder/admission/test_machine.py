# SPDX-License-Identifier: GPL-3.0-or-later
"""How busy the machine is, and what keeps builds from starting on it."""

import pytest

from builder.admission.machine import MachineReader, MachineState, look
from builder.admission.obstacles import AdmissionSettings, obstacle

MIB = 1024 * 1024

FILES = {
    "/proc/loadavg": "2.73 2.40 1.58 7/137 25285\n",
    "/proc/meminfo": "MemTotal:  24000000 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n",
    "/proc/vmstat": "pgfault 12\noom_kill 3\n",
    "/proc/pressure/cpu": "some avg10=70.61 avg60=37.63 avg300=27.34 total=32\nfull avg10=1.00\n",
    "/proc/pressure/memory": "some avg10=1.22 avg60=1.18 avg300=1.17 total=9\n",
    "/proc/pressure/io": "full avg10=9.00 avg60=0.00 avg300=0.00 total=0\n",
}


def read(name: str) -> str:
    """Give a file of the example."""
    try:
        return FILES[name]
    except KeyError:
        raise FileNotFoundError(name) from None


def absent(name: str) -> str:
    """Have no file at all."""
    raise FileNotFoundError(name)


def test_the_kernels_files_are_understood():
    """Each number from its own place."""
    assert look(read) == MachineState(2.73, 70.61, 1.22, 0.0, 2 * MIB, 3)


def test_what_a_kernel_does_not_tell_counts_as_none():
    """Such as pressure, which can be switched off."""
    assert look(absent) == MachineState()


def test_this_machine_has_memory():
    """The real files are read."""
    assert MachineReader(lambda: 0.0).state().available_memory > MIB


def test_a_look_is_good_for_a_while():
    """Asking often costs no more than asking seldom."""
    times = [0.0]
    looks = 0

    def counted(name: str) -> str:
        nonlocal looks
        looks += name == "/proc/loadavg"
        return read(name)

    reader = MachineReader(lambda: times[-1], counted, lasting=0.5)
    for now in (0.0, 0.1, 0.4, 0.6, 0.7):
        times.append(now)
        reader.state()
    assert looks == 2


IDLE = MachineState(available_memory=1000 * MIB)


def test_nothing_keeps_a_build_from_an_idle_machine():
    """As far as is known of it."""
    assert obstacle(AdmissionSettings(load=4, cpu_pressure=50), IDLE, 0, 0) is None
    assert obstacle(AdmissionSettings(), IDLE, 900 * MIB, 0) is None


def test_memory_is_counted_with_what_others_will_take():
    """And with what has to be spared."""
    found = obstacle(AdmissionSettings(), IDLE, 600 * MIB, 500 * MIB)
    assert found is not None
    assert (found.what, found.holder) == (
        "memory",
        "500 MiB are free, and it needed 600 MiB the last time",
    )
    assert obstacle(AdmissionSettings(spare_memory=401 * MIB), IDLE, 600 * MIB, 0) is not None
    assert obstacle(AdmissionSettings(spare_memory=400 * MIB), IDLE, 600 * MIB, 0) is None
    found = obstacle(AdmissionSettings(spare_memory=200 * MIB), IDLE, 0, 900 * MIB)
    assert found is not None
    assert found.holder == "only 100 MiB are free"


@pytest.mark.parametrize(
    ("settings", "machine", "what"),
    [
        (AdmissionSettings(load=2), MachineState(load=2), "load"),
        (AdmissionSettings(cpu_pressure=5), MachineState(cpu_pressure=7), "processors"),
        (AdmissionSettings(memory_pressure=5), MachineState(memory_pressure=7), "memory"),
        (AdmissionSettings(io_pressure=5), MachineState(io_pressure=7), "disks"),
    ],
)
def test_each_limit_holds(settings: AdmissionSettings, machine: MachineState, what: str):
    """And says which it was."""
    found = obstacle(settings, machine, 0, 0)
    assert found is not None
    assert found.what.endswith(what)
    assert "must be below" in found.holder
