# SPDX-License-Identifier: GPL-3.0-or-later
"""Builders that fail, dawdle, misbehave or are interrupted."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from builder import users
from builder.events import (
    BuildEvent,
    BuildFailed,
    BuildLog,
    BuildStarted,
    FailureKind,
    Message,
    UnsupportedPlatform,
)
from builder.options import Client
from builder.users import BuildUser
from store.database import StoreDatabase
from store.derivations import Derivation, Output

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

BUILD_USER = BuildUser("nixbld1", 30101, 30100, (30100,))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 7", "failed with exit code 7"),
        ("kill -9 $$; exit 3", "failed with exit code 3"),
        ("nonexistent-command", "failed with exit code 127"),
    ],
)
async def test_a_failing_builder_is_a_permanent_failure(yard: "Yard", script: str, words: str):
    """The message says how it ended; a signal to itself does not reach PID 1."""
    drv = await yard.add_derivation(script)
    failure = await yard.failure(drv)
    assert failure.message == f"builder for `{drv}' {words}"
    assert failure.kind is FailureKind.PERMANENT


async def test_a_builder_that_is_killed_from_outside_has_its_signal_named(yard: "Yard"):
    """As when the kernel runs out of memory."""
    drv = await yard.add_derivation("echo ready; sleep 100")
    async with trio.open_nursery() as nursery:
        failure: list[BuildFailed] = []

        async def build() -> None:
            failure.append(await yard.failure(drv))

        nursery.start_soon(build)
        await said(yard, "ready")
        os.kill(started(yard).pid, signal.SIGKILL)
    assert failure[0].message == f"builder for `{drv}' failed due to signal 9 (Killed)"


async def test_a_builder_may_not_take_too_long(yard: "Yard"):
    """It is ended with all it started; clients know the status."""
    drv = await yard.add_derivation("echo started; sleep 100 & while :; do echo x; sleep 0.1; done")
    before = time.monotonic()
    failure = await yard.failure(drv, timeout=1, max_silent_time=50)
    assert 1 <= time.monotonic() - before < 10
    assert failure.message == f"building of `{drv}' timed out after 1 seconds"
    assert failure.kind is FailureKind.TIMED_OUT


async def test_a_builder_may_not_be_silent_too_long(yard: "Yard"):
    """Output puts the end off; closing the output does not."""
    drv = await yard.add_derivation("echo started; exec > /dev/null 2>&1; sleep 100")
    failure = await yard.failure(drv, max_silent_time=1)
    assert failure.message == f"building of `{drv}' timed out after 1 seconds of silence"
    assert failure.kind is FailureKind.SILENT


async def test_a_builder_may_not_print_too_much(open_yard: "OpenYard"):
    """A limit on the log ends it."""
    async with open_yard(max_log_size=10_000) as yard:
        drv = await yard.add_derivation("while :; do echo chatter; done")
        failure = await yard.failure(drv)
    assert "killed after writing more than 10000 bytes of log output" in failure.message


async def test_a_builder_that_fills_the_pipe_is_read_to_the_end(yard: "Yard"):
    """Every byte arrives, in order."""
    drv = await yard.add_derivation("seq 1 200000; echo x > $out")
    await yard.build(drv)
    assert yard.log() == "".join(f"{number}\n" for number in range(1, 200_001))


async def test_what_a_builder_leaves_running_ends_with_it(yard: "Yard"):
    """A daemon of its own, in a session of its own, does not outlive the build."""
    drv = await yard.add_derivation(
        "setsid sleep 4711 & setsid sh -c 'sleep 4712 &'; echo x > $out"
    )
    await yard.build(drv)
    assert sleeping() & {"4711", "4712"} == set()


async def test_a_builder_cannot_gain_privileges_for_others(yard: "Yard"):
    """No set-id bit on anything it leaves, and no extended attribute."""
    drv = await yard.add_derivation(
        "mkdir $out; cp /bin/true $out/x;"
        "! chmod 4755 $out/x; ! chmod 2755 $out/x; ! chmod 2755 $out;"
        "echo done > $out/log"
    )
    await yard.build(drv)
    modes = [path.lstat().st_mode & 0o7000 for path in Path(yard.output(drv)).rglob("*")]
    assert set(modes) == {0}


async def test_a_builder_sees_only_what_it_may(yard: "Yard"):
    """Its inputs, not the rest of the store; no process but its own; no network but its own."""
    hidden = await yard.add_text("hidden", b"secret")
    drv = await yard.add_derivation(
        f"test ! -e {hidden}; echo $$; ls /proc | grep -c '^[0-9]'; "
        "cat /proc/net/dev | grep -c :; hostname; id -u; pwd; echo x > $out"
    )
    await yard.build(drv)
    first, *_, user, directory = yard.log().split()
    assert first == "1"
    assert user == "30001"
    assert directory == "/tmp/guix-build-demo.drv-0"
    assert "localhost" in yard.log()


async def test_inputs_cannot_be_changed(yard: "Yard"):
    """Not even by a builder that owns them in its user namespace."""
    source = await yard.add_text("source", b"text")
    drv = await yard.add_derivation(
        f"! chmod 644 {source}; ! rm -f {source}; ! sh -c 'echo x > {source}'; echo x > $out",
        sources=[source],
    )
    await yard.build(drv)
    assert Path(source).read_bytes() == b"text"


async def test_a_foreign_program_is_an_unsupported_platform(yard: "Yard"):
    """The trace and the error say for which system it is."""
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x08\x00" + bytes(44)
    builder = await yard.add_text("foreign", elf, executable=True)
    failure = await yard.failure(await foreign_derivation(yard, builder))
    assert "a `mips64el-linux' is required to build" in failure.message
    assert [event for event in yard.told if isinstance(event, UnsupportedPlatform)]


async def test_a_builder_outside_the_store_is_refused(yard: "Yard"):
    """A way to our own interpreter would be a way to overwrite it (CVE-2019-5736)."""
    for program in ("/bin/sh", "/usr/bin/env"):
        failure = await yard.failure(await foreign_derivation(yard, program, name="outside"))
        assert failure.kind is FailureKind.NOT_EXECUTED
        assert "is outside the store" in failure.message


async def test_a_client_that_leaves_takes_its_build_with_it(yard: "Yard"):
    """The builder is ended, its directories go, nothing is registered."""
    drv = await yard.add_derivation("echo ready; sleep 4713; echo x > $out")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(yard.build, drv)
        await said(yard, "ready")
        pid = started(yard).pid
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        while yard.leftovers() or Path(f"/proc/{pid}").exists():
            await trio.sleep(0.01)
    assert not yard.database.is_valid(yard.output(drv))


async def test_two_clients_that_want_the_same_get_it_once(yard: "Yard"):
    """Both are told how it went."""
    drv = await yard.add_derivation("echo once; sleep 0.2; echo x > $out")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(yard.build, drv)
        nursery.start_soon(yard.build, drv)
    assert len([event for event in yard.told if isinstance(event, BuildStarted)]) == 2
    assert len({event.pid for event in yard.told if isinstance(event, BuildStarted)}) == 1


async def test_two_daemons_take_turns(open_yard: "OpenYard"):
    """The second waits for the first's lock, and takes over what it made."""
    async with open_yard() as one, open_yard(beside=one) as two:
        drv = await one.add_derivation("echo ready; sleep 0.5; echo x > $out")
        await two.add_derivation("echo ready; sleep 0.5; echo x > $out")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.build, drv)
            await said(one, "ready")
            await two.build(drv)
        assert not [event for event in two.told if isinstance(event, BuildStarted)]
        assert two.database.is_valid(two.output(drv))


async def test_a_failed_build_can_be_kept(yard: "Yard"):
    """Its directory lies where the client is told, without the outer shell."""
    drv = await yard.add_derivation("echo evidence > file; exit 1")
    await yard.failure(drv, keep_failed=True)
    [note] = [
        e for e in yard.told if isinstance(e, Message) and "keeping build directory" in e.text
    ]
    kept = Path(note.text.partition("`")[2].rstrip("'"))
    assert (kept / "file").read_text() == "evidence\n"


@pytest.mark.root
async def test_a_kept_directory_belongs_to_its_client(yard: "Yard"):
    """Hard links within it are no obstacle; builders cannot make any to what is outside."""
    client = Client(1, 1, 12345, 12345, "user", trusted=False)
    drv = await yard.add_derivation(
        "echo a > plain; echo b > one; ln one two; ln /bin/sh sh && touch wrong; exit 1"
    )
    await yard.failure(drv, keep_failed=True, client=client)
    [note] = [
        e for e in yard.told if isinstance(e, Message) and "keeping build directory" in e.text
    ]
    kept = Path(note.text.partition("`")[2].rstrip("'"))
    assert {each.stat().st_uid for each in (kept, *kept.iterdir())} == {12345}
    assert sorted(os.listdir(kept)) == ["one", "plain", "two"]


async def test_failures_are_remembered_where_that_is_wanted(open_yard: "OpenYard"):
    """The second request starts nothing."""
    async with open_yard(cache_failures=True) as yard:
        drv = await yard.add_derivation("exit 1")
        await yard.failure(drv)
        yard.told.clear()
        failure = await yard.failure(drv)
        assert failure.kind is FailureKind.CACHED
        assert not [event for event in yard.told if isinstance(event, BuildStarted)]


async def test_no_more_builds_run_than_there_are_slots(open_yard: "OpenYard"):
    """Four builds in two slots: two after two."""
    async with open_yard(max_jobs=2) as yard:
        drvs = [
            await yard.add_derivation("sleep 0.2; echo x > $out", name=f"n{i}") for i in range(4)
        ]
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, yard.building.slots.statistics().taken)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await yard.build(*drvs)
            nursery.cancel_scope.cancel()
        assert most == 2


async def test_without_a_container_builders_run_on_the_host(open_yard: "OpenYard"):
    """For machines without namespaces; what they leave running still ends."""
    async with open_yard(use_chroot=False) as yard:
        drv = await yard.add_derivation("echo $TMPDIR; sleep 4714 & echo x > $out")
        await yard.build(drv)
        assert yard.log().startswith(str(yard.base))
        assert Path(yard.output(drv)).read_text() == "x\n"
    assert "4714" not in sleeping()
    assert yard.leftovers() == []


@pytest.mark.root
async def test_builders_run_as_build_users(open_yard: "OpenYard", monkeypatch: pytest.MonkeyPatch):
    """Each with its own user and group; what they leave belongs to the daemon."""
    monkeypatch.setattr(users, "members", lambda _group: [BUILD_USER])
    async with open_yard(build_users_group="builders") as yard:
        yard.base.chmod(0o755)
        drv = await yard.add_derivation("id -u; id -g; id -G; touch $out")
        await yard.build(drv)
        assert yard.log().split() == ["30101", "30100", "30100"]
        assert os.stat(yard.output(drv)).st_uid == 0


@pytest.mark.root
async def test_an_output_of_somebody_elses_file_is_refused(
    open_yard: "OpenYard", monkeypatch: pytest.MonkeyPatch
):
    """A hard link to a file of another user is no output of this build."""
    monkeypatch.setattr(users, "members", lambda _group: [BUILD_USER])
    async with open_yard(build_users_group="builders", use_chroot=False) as yard:
        yard.base.chmod(0o755)
        Path(yard.layout.store).chmod(0o1777)
        theirs = Path(yard.layout.store) / "theirs"
        theirs.write_text("root's")
        theirs.chmod(0o644)
        os.chown(theirs, 0, 0)
        drv = await yard.add_derivation(
            f"mkdir $out; ln {theirs} $out/mine 2>/dev/null || cp -p {theirs} $out/mine"
        )
        try:
            await yard.build(drv)
        except Exception:  # noqa: BLE001 - the kernel may forbid the link, or the sealing the file
            assert not yard.database.is_valid(yard.output(drv))
        assert theirs.stat().st_uid == 0
        assert theirs.stat().st_mtime != 1


def started(yard: "Yard") -> BuildStarted:
    """Return the last announcement of a builder."""
    return next(event for event in reversed(yard.told) if isinstance(event, BuildStarted))


async def said(yard: "Yard", word: str) -> None:
    """Wait until a builder has printed a word."""
    with trio.fail_after(20):
        while not any(printed(event, word) for event in yard.told):
            await trio.sleep(0.005)


def printed(event: BuildEvent, word: str) -> bool:
    """Tell whether an event is output with a word in it."""
    return isinstance(event, BuildLog) and word.encode() in event.data


def sleeping() -> set[str]:
    """Return for how many seconds the sleep commands of the machine sleep."""
    seconds = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(line) == 3 and line[0].endswith(b"sleep"):
                seconds.add(line[1].decode())
    return seconds


async def foreign_derivation(yard: "Yard", builder: str, name: str = "foreign") -> str:
    """Put a derivation with any builder, for another machine, into the store."""
    sources = (yard.directory.parse(builder),) if yard.directory.contains(builder) else ()
    bare = Derivation(
        outputs={"out": Output("")},
        input_derivations={},
        input_sources=sources,
        system="mips64el-linux",
        builder=builder,
        args=(),
        env={},
    )
    return await yard.add_described(bare, name)


async def test_a_client_that_leaves_after_the_outputs_are_placed_leaves_them_registered(
    yard: "Yard", monkeypatch: pytest.MonkeyPatch
):
    """Nothing may come between the two: an item that is not registered is nobody's."""
    drv = await yard.add_derivation("echo x > $out")
    register = StoreDatabase.register
    scope = trio.CancelScope()

    async def register_late(*arguments: Any) -> None:
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await register(*arguments)

    monkeypatch.setattr(StoreDatabase, "register", register_late)
    with scope:
        await yard.build(drv)
    with trio.fail_after(5):
        while not yard.database.is_valid(yard.output(drv)):
            await trio.sleep(0.01)
