# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding this process's memory cgroup in what the kernel says."""

from hypothesis import given
from hypothesis import strategies as st

from builder.memory.places import Place, find_place

FIRST = "9:name=systemd:/\n4:memory,cpu:/services/store\n0::/\n"
FIRST_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
SECOND = "0::/system.slice/storedaemon.service\n"
SECOND_MOUNTS = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_one_is_found_by_its_controller():
    """Though version 2 is mounted as well, without one."""
    top = "/sys/fs/cgroup/memory"
    place = find_place(FIRST, FIRST_MOUNTS)
    assert place == Place(1, f"{top}/services/store", top)
    assert place.ancestry == (f"{top}/services/store", f"{top}/services", top)


def test_version_two_is_one_hierarchy():
    """Its line names no controller."""
    top = "/sys/fs/cgroup"
    assert find_place(SECOND, SECOND_MOUNTS) == Place(
        2, f"{top}/system.slice/storedaemon.service", top
    )


def test_a_part_that_is_mounted_counts_from_its_root():
    """As in a container without a cgroup namespace."""
    mounts = "30 23 0:26 /docker/x /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n"
    assert find_place("0::/docker/x/y\n", mounts) == Place(2, "/sys/fs/c g/y", "/sys/fs/c g")
    assert find_place("0::/docker/x\n", mounts) == Place(2, "/sys/fs/c g", "/sys/fs/c g")
    assert find_place("0::/docker/xy\n", mounts) is None


def test_what_is_outside_is_nowhere():
    """A cgroup namespace shows it with dots."""
    assert find_place("0::/../other\n", SECOND_MOUNTS) is None


def test_a_kernel_without_cgroups_has_none():
    """Nothing is invented."""
    assert find_place("", "") is None
    assert find_place(FIRST, "23 1 0:20 / /proc rw - proc proc rw\n") is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_is_read(cgroups: str, mounts: str):
    """What makes no sense is passed over."""
    find_place(cgroups, mounts)
    find_place(FIRST + cgroups, mounts + FIRST_MOUNTS)
