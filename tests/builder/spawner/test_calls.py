# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of system calls, and what a spawner does with a process that fails at one."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.container import ALL_NAMESPACES, GuestIdentity, Namespace, SameIdentity
from builder.spawner import _launch
from builder.spawner.calls import Call, perform
from builder.spawner.client import start_spawner
from builder.spawner.messages import CODEC, SpawnRequest
from builder.spawner.script import pack, translate
from builder.spawner.syscalls import how_to_open, openat2
from locker.channel import Channel

_AT_FDCWD = -100


def test_a_call_takes_the_result_of_the_one_before(tmp_path: Path) -> None:
    """Memory is passed by its address, and an ellipsis becomes the descriptor."""
    path = os.fsencode(tmp_path / "file")
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)  # so it is the next one again
    calls = [
        Call("", "openat", (_AT_FDCWD, path, flags, 0o600)),
        Call("", "write", (..., b"12345", 4)),
    ]
    assert perform(calls) is None
    os.close(lowest)
    assert Path(os.fsdecode(path)).read_bytes() == b"1234"


def test_a_single_call_names_itself_in_errors(tmp_path: Path) -> None:
    """Its result is a number; what belongs to lists alone is refused."""
    attributes = how_to_open(os.O_PATH, 0)
    missing = os.fsencode(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] openat2: No such file"):
        openat2(_AT_FDCWD, missing, attributes, len(attributes))
    fd = openat2(_AT_FDCWD, os.fsencode(tmp_path), attributes, len(attributes))
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    os.close(fd)
    for wrong in ((...,), ((b"",),), ("text",), (0,) * 7):
        with pytest.raises(TypeError):
            _launch.call("getpid", 0, *wrong)  # type: ignore[arg-type]


def test_the_first_failure_ends_the_list(tmp_path: Path) -> None:
    """It is told which call failed and why; what comes after is not done."""
    missing = os.fsencode(tmp_path / "missing")
    made = os.fsencode(tmp_path / "made")
    calls = [
        Call("one", "umask", (os.umask(0o022),)),
        Call("two", "chdir", (missing,)),
        Call("three", "openat", (_AT_FDCWD, made, os.O_CREAT | os.O_WRONLY, 0o600)),
    ]
    failure = perform(calls)
    assert failure is not None
    assert (failure.call.step, failure.errno) == ("two", errno.ENOENT)
    assert failure.text == "No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_failures_name_the_call() -> None:
    """Where the path does not say it, the name of the call does."""
    failure = perform([Call("session", "dup3", (1 << 20, 0, 0))])
    assert failure is not None
    assert failure.text == "dup3: Bad file descriptor"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (("reboot", (), False), ValueError),
        (("umask", (0,) * 7, False), ValueError),
        (("umask", ("text",), False), TypeError),
        (("execve", (b"/", ("text",), None), False), TypeError),
        (("umask", [0], False), TypeError),
        (("umask",), TypeError),
        ("umask", TypeError),
    ],
)
def test_malformed_calls_are_refused(call: Any, error: type[Exception]) -> None:
    """None of a list is made if one of it is malformed."""
    before = os.umask(0o022)
    with pytest.raises(error):
        _launch.perform([("umask", (0o777,), False), call])
    assert os.umask(before) == 0o022


@pytest.mark.root
@pytest.mark.usefixtures("no_leaks")
def test_a_closed_status_pipe_ends_the_process_and_not_the_spawner(shell: Any) -> None:
    """The process ends by itself, and whoever cannot be told of a failure is not."""
    helper = start_spawner()
    with Channel(helper.socket, CODEC) as channel:
        described = shell("true")
        failing = replace(described, command=replace(described.command, directory="/nonexistent"))
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.close(reader)
        for number, each in enumerate((failing, described, failing)):
            script = pack(translate(each))
            channel.send(SpawnRequest(number, script, has_stdin=False), (writer, writer))
            reply, (pidfd,) = channel.receive()
            assert reply.number == number
            assert os.waitstatus_to_exitcode(os.waitpid(reply.pid, 0)[1]) == 1
            os.close(pidfd)
        os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(helper.pid, 0)[1]) == 0


@pytest.mark.root
async def test_no_signal_handler_of_the_spawner_reaches_a_builder(bench: Any, shell: Any) -> None:
    """A builder starts with nothing caught, ignored or blocked."""
    lines = (await bench.run(shell("exec /bin/cat /proc/self/status"))).lines
    masks = dict(line.split(":\t") for line in lines if line.startswith("Sig") and "Q" not in line)
    assert {name: int(mask, 16) for name, mask in masks.items()} == dict.fromkeys(
        ("SigPnd", "SigBlk", "SigIgn", "SigCgt"), 0
    )


@pytest.mark.root
async def test_kinds_of_containers_follow_each_other(bench: Any, shell: Any) -> None:
    """What was launched changes nothing for what is forked next, and the other way round."""
    others: tuple[dict[str, Any], ...] = (
        {"identity": GuestIdentity(extra_gids=((40000, 40000),))},
        {"identity": GuestIdentity(lock_mounts=False)},
        {"namespaces": (), "operations": ()},
        {"namespaces": tuple(i for i in ALL_NAMESPACES if i != Namespace.NETWORK)},
        {"identity": SameIdentity()},
    )
    for changes in others:
        for described in (shell("exit 3"), replace(shell("exit 3"), **changes)):
            assert (await bench.run(described)).status.code == 3
