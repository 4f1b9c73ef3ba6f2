# SPDX-License-Identifier: GPL-3.0-or-later
"""Cgroups as this machine has them, and as files say that they are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.memory.group import Group, descendants, room_below
from builder.memory.home import Home, own_place, remove_leftovers
from builder.memory.places import Place

MIB = 1024 * 1024

# Takes memory when told to, in a child; prints when it has it, and ends with its input.
EATER = """
import os, sys
sys.stdin.readline()
if os.fork() == 0:
    sys.stdin.readline()
    data = b"x" * (60 << 20)
    print("full", flush=True)
    sys.stdin.readline()
    os._exit(0)
print("born", flush=True)
os.wait()
"""


@pytest.fixture
def place() -> Place:
    """Where this process's cgroup is, if it may make others there."""
    found = own_place()
    if found is None or found.version != 1 or not os.access(found.directory, os.W_OK):
        pytest.skip("needs a memory cgroup of version 1 that can be written to")
    return found


@pytest.fixture
def home(place: Place) -> Iterator[Home]:
    """A home for cgroups."""
    made = Home.make(place)
    yield made
    made.close()
    assert not os.path.exists(f"{place.directory}/storedaemon-{os.getpid()}")


@pytest.fixture
def eater() -> Iterator["subprocess.Popen[str]"]:
    """A process that takes memory when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", EATER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def say(process: "subprocess.Popen[str]") -> str:
    """Let the eater go on, and return what it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def gone(group: Group) -> None:
    """Remove a cgroup once the kernel is through with its processes."""
    while not group.remove():
        os.sched_yield()


def test_what_a_child_takes_is_counted(home: Home, eater: "subprocess.Popen[str]"):
    """Children that were there are moved as well."""
    group = home.group()
    assert say(eater) == "born"
    assert len(descendants(eater.pid)) == 2
    group.adopt(eater.pid)
    before = group.demand()
    assert before > MIB, "what a process brings counts"
    assert say(eater) == "full"
    assert 60 * MIB <= group.demand() - before < 80 * MIB
    assert group.oom_kills() == 0
    assert not group.remove(), "it has processes"
    eater.kill()
    eater.wait()
    os.sched_yield()
    say_nothing = eater.stdin
    assert say_nothing is not None
    say_nothing.close()
    gone(group)


def test_a_limit_ends_what_takes_more(home: Home, eater: "subprocess.Popen[str]"):
    """And that is counted."""
    group = home.group()
    group.limit(30 * MIB)
    assert say(eater) == "born"
    group.adopt(eater.pid)
    assert say(eater) == "", "nobody is left to answer"
    assert eater.wait() == 0
    assert group.oom_kills() == 1
    gone(group)


def test_what_dead_daemons_left_is_removed(place: Place):
    """What is a living one's stays."""
    with subprocess.Popen(["true"]) as dead:
        pass
    ours = f"{place.directory}/storedaemon-{os.getpid()}"
    theirs = f"{place.directory}/storedaemon-{dead.pid}"
    for directory in (ours, theirs):
        os.makedirs(f"{directory}/build-1")
    remove_leftovers(place.directory)
    assert not os.path.exists(theirs)
    assert os.path.exists(ours)
    os.rmdir(f"{ours}/build-1")
    os.rmdir(ours)


def version_two(directory: Path, **files: str) -> Path:
    """Make what looks like a cgroup of version 2."""
    directory.mkdir()
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_text(text)
    return directory


def read(name: str) -> str:
    """Return the text of a file."""
    return Path(name).read_text()


def test_nested_limits_leave_the_least_room(tmp_path: Path):
    """Caches of files count as free."""
    stat = f"anon 1\nactive_file {MIB}\ninactive_file {2 * MIB}\n"
    outer = version_two(
        tmp_path / "outer",
        memory_max=f"{100 * MIB}\n",
        memory_current=f"{50 * MIB}\n",
        memory_stat=stat,
    )
    inner = version_two(outer / "inner", memory_max="max\n", memory_current=f"{9 * MIB}\n")
    assert room_below((str(inner), str(outer)), 2, read) == 53 * MIB
    assert room_below((str(inner),), 2, read) is None


def test_a_cgroup_of_version_two_is_not_divided_uninvited(tmp_path: Path):
    """Without the service manager's word for it."""
    files = {"cgroup_controllers": "cpu memory\n", "cgroup_subtree_control": "\n"}
    own = version_two(tmp_path / "own", cgroup_procs=f"{os.getpid()}\n", **files)
    own.joinpath("cgroup.subtree_control").write_text("")
    with pytest.raises(PermissionError, match="not this daemon's"):
        Home.make(Place(2, str(own), str(tmp_path)))


def test_one_without_the_controller_is_of_no_use(tmp_path: Path):
    """As where version 1 has it."""
    own = version_two(tmp_path / "own", cgroup_controllers="\n", cgroup_procs="")
    (own / "cgroup.subtree_control").write_text("")
    with pytest.raises(PermissionError, match="does not count memory"):
        Home.make(Place(2, str(own), str(tmp_path)))
