# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that slirp4netns runs under, in a process that installs it."""

import json
import os
import subprocess
import sys

import pytest

from builder.spawner.uplink_filter import uplink_filter_for

PROBE = """
import ctypes, json, os, signal, socket, sys
from builder.spawner.kit import Filter
from builder.spawner.syscalls import prctl
from builder.spawner.uplink_filter import uplink_filter_for

made = Filter(uplink_filter_for(os.uname().machine))
prctl(38, 1, 0, 0, 0)
prctl(22, 2, made.address, 0, 0)

def outcome(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0

pair = lambda kind: socket.socketpair(socket.AF_UNIX, kind)
print(json.dumps({
    "inet": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "inet6": outcome(lambda: socket.socket(socket.AF_INET6)),
    "unix": outcome(lambda: socket.socket(socket.AF_UNIX)),
    "netlink": outcome(lambda: socket.socket(socket.AF_NETLINK)),
    "pair": outcome(lambda: pair(socket.SOCK_STREAM)),
    "datagrams": outcome(lambda: pair(socket.SOCK_DGRAM)),
    "kill": outcome(lambda: os.kill(os.getppid(), 0)),
    "pidfd": outcome(lambda: os.pidfd_open(os.getppid())),
}))
"""


def test_only_the_internet_is_within_reach():
    """No abstract socket of the host, also not through a pair that is connected anew."""
    if os.uname().machine not in ("x86_64", "aarch64", "riscv64"):
        pytest.skip("no filter for this machine")
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True)
    outcomes = json.loads(done.stdout)
    allowed = {name for name, code in outcomes.items() if code == 0}
    assert allowed == {"inet", "inet6", "pair"}


def test_machines_without_a_table_are_told():
    """On i686 one system call stands for all of sockets."""
    with pytest.raises(ValueError, match="i686"):
        uplink_filter_for("i686")
