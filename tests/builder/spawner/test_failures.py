# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told when a container cannot be set up, and that nothing of it is left."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from builder.container import Bind, Command, Container, Directory, File, Symlink
from builder.spawner.client import SetupError, SpawnerGoneError

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]


async def failure(bench: Any, described: Container) -> SetupError:
    """Run a container that cannot be set up, and give the error."""
    with pytest.raises(SetupError) as caught:
        await bench.run(described)
    return caught.value


def with_program(described: Container, program: str, beneath: str | None = None) -> Container:
    """Have a container execute another program."""
    command = replace(described.command, program=program.encode(), beneath=beneath)
    return replace(described, command=command)


async def test_missing_source_is_named(bench: Any, shell: Any) -> None:
    """The error names step, operation and path."""
    bind = Bind("/nonexistent/item", "/gnu/store/item")
    error = await failure(bench, shell("true", operations=(bind,)))
    assert (error.step, error.errno) == ("operation", errno.ENOENT)
    assert "/nonexistent/item" in error.message
    assert "No such file or directory" in error.message


async def test_missing_builder_is_told(bench: Any, shell: Any) -> None:
    """A program that does not exist, or whose interpreter does not."""
    error = await failure(bench, with_program(shell("true"), "/gnu/store/none"))
    assert (error.step, error.errno) == ("program", errno.ENOENT)
    script = File("/script", b"#!/nonexistent/interpreter\n", 0o755)
    error = await failure(bench, with_program(shell("true", operations=(script,)), "/script"))
    assert error.errno == errno.ENOENT
    assert "executing `/script'" in error.message


@pytest.mark.parametrize(
    ("contents", "mode", "code"),
    [
        (b"no program\n", 0o755, errno.ENOEXEC),
        (b"#!/bin/sh\n", 0o644, errno.EACCES),
        (b"", 0o755, errno.ENOEXEC),
    ],
)
async def test_unsuitable_builder_is_told_by_number(
    bench: Any, shell: Any, contents: bytes, mode: int, code: int
) -> None:
    """The number tells a program for another machine from one that is not executable."""
    file = File("/builder", contents, mode)
    error = await failure(bench, with_program(shell("true", operations=(file,)), "/builder"))
    assert (error.step, error.errno) == ("execute", code)


async def test_directory_is_no_builder(bench: Any, shell: Any) -> None:
    """A directory cannot be executed."""
    error = await failure(bench, with_program(shell("true"), "/usr"))
    assert (error.step, error.errno) == ("program", errno.EACCES)


async def test_builder_outside_the_store_is_refused(bench: Any, shell: Any) -> None:
    """Where a link leads counts, not where it lies."""
    link = Symlink("/gnu/store/item", "/usr/bin/env")
    described = with_program(shell("true", operations=(link,)), "/gnu/store/item", "/gnu/store")
    error = await failure(bench, described)
    assert error.step == "program"
    assert "derivation builder `/usr/bin/env' is outside the store" in error.message


@pytest.mark.parametrize("target", ["/proc/self/exe", "/proc/1/exe", "/proc/self/root/bin/sh"])
async def test_links_of_the_kernel_lead_to_no_builder(bench: Any, shell: Any, target: str) -> None:
    """Until the exec, /proc/self/exe is a program of the host (CVE-2019-5736)."""
    described = with_program(shell("true"), target)
    for each in (described, replace(described, namespaces=(), operations=())):
        error = await failure(bench, each)
        assert error.step == "program"
        assert error.errno in (errno.ELOOP, errno.ENOENT, errno.EACCES)


async def test_script_cannot_name_our_interpreter(bench: Any, shell: Any) -> None:
    """The interpreter of a script is checked as the program is."""
    files = (
        File("/script", b"#!/proc/self/exe -V\n", 0o755),
        File("/outer", b"#! /script\n", 0o755),
    )
    for name in ("/script", "/outer"):
        described = with_program(shell("true", operations=files), name)
        assert (await failure(bench, described)).step == "program"


async def test_targets_are_reached_through_no_link(bench: Any, shell: Any, tmp_path: Path) -> None:
    """A link on the way to a target is an error; nothing appears where it leads."""
    operations = Symlink("/way", str(tmp_path)), Directory("/way/made")
    error = await failure(bench, shell("true", operations=operations))
    assert error.errno in (errno.ELOOP, errno.ENOTDIR)
    assert list(tmp_path.iterdir()) == []


async def test_link_in_a_bound_directory_is_not_followed(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """The same for a link that somebody else made in a directory of the host."""
    (tmp_path / "outside").mkdir()
    bound = tmp_path / "bound"
    bound.mkdir()
    (bound / "link").symlink_to(tmp_path / "outside")
    operations = (
        Bind(str(bound), "/bound", read_only=False),
        Bind("/usr", "/bound/link"),
    )
    await failure(bench, shell("true", operations=operations))
    error = await failure(
        bench, shell("true", operations=(operations[0], File("/bound/link/x", b"")))
    )
    assert error.errno in (errno.ELOOP, errno.ENOTDIR)
    assert list((tmp_path / "outside").iterdir()) == []


async def test_missing_working_directory_is_named(bench: Any, shell: Any) -> None:
    """The error says what could not be changed into."""
    described = shell("true")
    command = replace(described.command, directory="/nonexistent")
    error = await failure(bench, replace(described, command=command))
    assert (error.step, error.errno) == ("directory", errno.ENOENT)
    assert "changing into `/nonexistent'" in error.message


async def test_too_long_arguments_are_told(bench: Any, shell: Any) -> None:
    """A description larger than a datagram arrives, and the kernel's refusal comes back."""
    error = await failure(bench, shell("true " + "x" * (1 << 18)))
    assert (error.step, error.errno) == ("execute", errno.E2BIG)


async def test_spawner_serves_on_after_failures(bench: Any, shell: Any) -> None:
    """A failure leaves no trace in the next container."""
    for _ in range(5):
        await failure(bench, shell("true", operations=(Bind("/nonexistent", "/x"),)))
        await failure(bench, with_program(shell("true"), "/nonexistent"))
        outcome = await bench.run(shell("ls -d /x /proc/1; pwd"))
        assert outcome.lines[1:] == ["/proc/1", "/tmp"]


async def test_killing_the_first_process_kills_all(bench: Any, shell: Any) -> None:
    """Daemons and grandchildren end with the namespace, and let go of the pipe."""
    script = "(setsid sleep 1000 & setsid sleep 1000 &) ; echo ready; sleep 1000"
    reader, writer = os.pipe2(os.O_CLOEXEC)
    async with trio.lowlevel.FdStream(reader) as stream:
        spawned = await bench.spawner.spawn(shell(script), stdout_fd=writer)
        os.close(writer)
        await spawned.setup
        assert await stream.receive_some() == b"ready\n"
        spawned.process.kill()
        assert (await spawned.process.wait()).signal == signal.SIGKILL
        assert await stream.receive_some() == b""


async def test_cancelled_spawn_leaves_no_process(bench: Any, shell: Any) -> None:
    """Whenever the caller is cancelled, the process is killed and reaped."""
    described = shell("sleep 1000")
    for steps in range(12):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.run, described)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    await bench.run(shell("true"))  # requests are answered in order, so all others are by now
    with trio.fail_after(10):
        while bench.monitor.statistics().running > 1:  # the spawner itself
            await trio.lowlevel.checkpoint()


async def test_nothing_remains_of_200_containers(bench: Any, shell: Any) -> None:
    """No descriptor in the spawner, no mount, no child."""
    described = shell("exit 3")
    await bench.run(described)  # the first one has the loopback message made
    before = await _traces_at_rest(bench, described)
    for _ in range(200):
        assert (await bench.run(described)).status.code == 3
    assert await _traces_at_rest(bench, described) == before


async def _traces_at_rest(bench: Any, described: Container) -> tuple[int, str]:
    """Look when the spawner prepares nothing: it does not after who wants no namespaces."""
    await bench.run(replace(described, namespaces=(), operations=()))
    latest = _traces(bench)
    with trio.fail_after(10):
        while True:
            await trio.sleep(0.1)
            earlier, latest = latest, _traces(bench)
            if earlier == latest:
                return latest


def _traces(bench: Any) -> tuple[int, str]:
    descriptors = len(os.listdir(f"/proc/{bench.helper.pid}/fd"))
    return descriptors, Path("/proc/self/mountinfo").read_text()


async def test_dead_spawner_is_a_clear_error(bench: Any, shell: Any) -> None:
    """Who waits for a reply and who asks later is told the same."""
    bench.helper.send_signal(signal.SIGSTOP)
    errors: list[Exception] = []

    async def ask() -> None:
        try:
            await bench.run(shell("true"))
        except SpawnerGoneError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        bench.helper.kill()
    await ask()
    assert len(errors) == 4
    assert all("restarted" in str(error) for error in errors)


async def test_builder_ends_when_nobody_cares(bench: Any, shell: Any) -> None:
    """A process whose setup is no longer awaited ends by itself or is killed by its owner."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    spawned = await bench.spawner.spawn(shell("sleep 1000"), stdout_fd=writer)
    spawned.setup.close()
    os.close(writer)
    os.close(reader)
    spawned.process.kill()
    await spawned.process.wait()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"program": b"sh"}, "absolute path"),
        ({"arguments": ()}, "begin with the program's name"),
        ({"arguments": (b"a\0b",)}, "NUL"),
        ({"environment": ((b"A", b"b"), (b"C", b"\0"))}, "NUL"),
        ({"environment": ((b"A", b"b=c"), (b"D=", b""))}, "environment variable"),
        ({"environment": ((b"A", b"b=c"), (b"", b"d"))}, "environment variable"),
        ({"directory": "tmp"}, "absolute path"),
    ],
)
def test_commands_are_checked(changes: dict[str, Any], problem: str) -> None:
    """What execve could not take is refused where it is described."""
    with pytest.raises(ValueError, match=problem):
        replace(Command(b"/bin/sh", (b"sh",)), **changes)
