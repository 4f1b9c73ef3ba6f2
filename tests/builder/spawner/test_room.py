# SPDX-License-Identifier: GPL-3.0-or-later
"""A room has nothing of the host's, and its way back leads to where the spawner came from."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

PROGRAM = """
import os
from builder.spawner.network import LoopbackMessage
from builder.spawner.room import Home

NAMES = ("mnt", "net", "ipc", "uts", "pid_for_children")
proc = os.open("/proc", os.O_PATH)
loopback = LoopbackMessage().get()

def namespaces():
    seen = {}
    for name in NAMES:
        try:
            seen[name] = os.readlink(f"self/ns/{name}", dir_fd=proc)
        except FileNotFoundError:
            seen[name] = "of nobody yet"  # a PID namespace without a process has no name
    return seen

def mounts():
    with open(os.open("self/mountinfo", os.O_RDONLY, dir_fd=proc)) as file:
        return file.read().splitlines()

home = Home(proc)
at_home, around = namespaces(), mounts()
rooms = []
for _ in range(2):
    home.enter_room(loopback)
    room = namespaces()
    assert not set(room.values()) & set(at_home.values()), room
    assert os.listdir("/") == []
    [only] = mounts()
    assert " ro," in only and "shared:" not in only, only
    rooms.append(room)
    home.step_out()
    assert namespaces() == {**room, "mnt": at_home["mnt"]} and os.listdir("/") != []
    assert mounts() == around
    home.step_in()
    assert namespaces() == room
    home.return_home()
    assert namespaces() == at_home and mounts() == around
assert rooms[0]["net"] != rooms[1]["net"]
"""


def test_a_room_begins_without_any_mount_of_the_host() -> None:
    """It has an empty directory that nobody can write to, and other namespaces than home."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
