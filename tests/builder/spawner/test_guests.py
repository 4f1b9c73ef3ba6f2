# SPDX-License-Identifier: GPL-3.0-or-later
"""Builders in user namespaces: with root as the daemon, and with an ordinary user."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from builder.container import GuestIdentity

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]

ORDINARY = 12345


async def test_guest_sees_its_own_numbers(bench: Any, shell: Any) -> None:
    """The daemon's user has the guest's numbers inside, and nobody else exists."""
    script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups"
    outcome = await bench.run(shell(script, identity=GuestIdentity()))
    assert outcome.lines[:2] == ["30001", "30000"]
    assert [line.split() for line in outcome.lines[2:4]] == [
        ["30001", "30001", "1"],
        ["30000", "30000", "1"],
    ]
    assert outcome.lines[4] == "deny"


async def test_guest_cannot_take_mounts_apart(bench: Any, shell: Any) -> None:
    """Not even with all capabilities in a user namespace of its own."""
    script = (
        "umount /proc; mount -t tmpfs none /tmp; grep -E '^Cap(Eff|Bnd)' /proc/self/status;"
        "unshare -Urm umount /usr; unshare -Urm mount -o remount,bind,rw /usr; true"
    )
    outcome = await bench.run(shell(script, identity=GuestIdentity()))
    refused = [line for line in outcome.lines if line.startswith(("mount: ", "umount: "))]
    assert len(refused) == 4
    capabilities = [line for line in outcome.lines if line.startswith("Cap")]
    assert [int(line.split()[1], 16) for line in capabilities] == [0, 0]


async def test_guest_has_the_rest_of_a_container(bench: Any, shell: Any) -> None:
    """Network, devices, processes, names: as for build users."""
    script = (
        "uname -n; ls /dev; echo $$; grep -c : /proc/net/dev; touch /file;"
        "grep -E '^Seccomp:' /proc/self/status; echo x > /dev/null && echo y > /dev/shm/y"
    )
    outcome = await bench.run(shell(script, identity=GuestIdentity()))
    assert outcome.lines[0] == "localhost"
    assert {"null", "ptmx", "shm"} <= set(outcome.lines)
    assert outcome.lines[-4:-2] == ["1", "1"]
    assert "Permission denied" in outcome.lines[-2]
    assert outcome.lines[-1] == "Seccomp:\t2"


@pytest.mark.parametrize("lock_mounts", [True, False])
async def test_guest_may_have_more_groups(bench: Any, shell: Any, lock_mounts: bool) -> None:
    """Files can be given to a group that was mapped, and to no other."""
    identity = GuestIdentity(extra_gids=((40000, 36), (40001, 37)), lock_mounts=lock_mounts)
    outcome = await bench.run(shell("cat /proc/self/gid_map", identity=identity))
    assert sorted(line.split()[0] for line in outcome.lines) == ["30000", "40000", "40001"]


PROGRAM = """
import os, sys
from pathlib import Path
from builder.spawner.syscalls import *
# The interpreter may lie where this user may not look, such as root's home: show it nevertheless.
closed = [i for i in reversed(Path(sys.base_prefix).parents) if not i.stat().st_mode & 1]
if closed:
    unshare(CLONE_NEWNS)
    mount(None, b"/", None, 0x4000 | MS_PRIVATE, None)
    tree = open_tree(-100, os.fsencode(sys.base_prefix), OPEN_TREE_CLONE | AT_RECURSIVE)
    mount(b"none", bytes(closed[0]), b"tmpfs", 0, b"mode=755")
    Path(sys.base_prefix).mkdir(parents=True)
    move_mount(tree, b"", -100, os.fsencode(sys.base_prefix), MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)
os.setgroups([]); os.setgid({user}); os.setuid({user})
import trio
from builder.container import *
from builder.spawner.client import Spawner, start_spawner
from reaper.monitor import ProcessMonitor
async def main():
    helper, monitor = start_spawner(), ProcessMonitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        spawner = Spawner.from_helper(helper, monitor)
        await nursery.start(spawner.run)
        operations = arrange([Devices(), SharedMemory(), PseudoTerminals(), Proc(),
            Directory("/tmp", 0o1777), *(Bind(i, i, optional=True) for i in {system})])
        identity = GuestIdentity(extra_gids=((40000, 36),))
        command = Command(b"/bin/sh", (b"sh", b"-c", sys.argv[1].encode()), ((b"PATH", b"/bin"),))
        spawned = await spawner.spawn(
            Container(command, identity, operations=operations), stdout_fd=1)
        await spawned.setup
        print((await spawned.process.wait()).describe(), flush=True)
        nursery.cancel_scope.cancel()
trio.run(main)
"""


async def test_ordinary_user_needs_no_privileges(tmp_path: Path) -> None:
    """The daemon of an ordinary user makes the same containers; more groups are left out."""
    program = PROGRAM.format(user=ORDINARY, system=("/usr", "/bin", "/lib", "/lib64"))
    script = (
        "id -u; id -g; wc -l < /proc/self/gid_map; ls /dev/null /proc/1/exe;"
        "grep -c : /proc/net/dev; umount /proc; exit 5"
    )
    out = tmp_path / "out"
    pid = _start([sys.executable, "-c", program, script], out)
    status = await trio.to_thread.run_sync(lambda: os.waitpid(pid, 0)[1])
    lines = out.read_text().splitlines()
    assert os.waitstatus_to_exitcode(status) == 0, lines
    assert lines[:6] == ["30001", "30000", "1", "/dev/null", "/proc/1/exe", "1"]
    assert "umount" in lines[6]
    assert lines[7] == "exited with code 5"


def _start(arguments: list[str], out: Path) -> int:
    with out.open("wb") as file:
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), fd) for fd in (1, 2)]
        return os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions)


async def test_guest_cannot_change_the_machine_through_proc(bench: Any, shell: Any) -> None:
    """Where the daemon is root the guest is root by its number, which is all that counts there."""
    # Only opened: where that is possible, writing would change the whole machine.
    script = (
        "for file in kernel/core_pattern kernel/hostname vm/drop_caches; do"
        " (exec 3>>/proc/sys/$file) && echo opened; done;"
        "unshare -Urpf --mount-proc sh -c '(exec 3>>/proc/sys/kernel/core_pattern) && echo opened';"
        "echo 500 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj"
    )
    outcome = await bench.run(shell(script, identity=GuestIdentity()))
    assert "opened" not in outcome.lines
    assert outcome.output.count("Read-only file system") == 3, outcome.output
