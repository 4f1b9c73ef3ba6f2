# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder sees from inside a real container."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from builder.container import (
    DEVICES,
    Bind,
    Container,
    Directory,
    File,
    HostIdentity,
    Limit,
    Namespace,
    Persona,
    Personality,
    Root,
    Symlink,
    Tmpfs,
)
from builder.spawner.syscalls import MNT_DETACH, MS_BIND, mount, umount2

MS_SHARED = 1 << 20

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]


async def test_ids_are_those_of_the_build_user(bench: Any, shell: Any) -> None:
    """User, group and supplementary groups are exactly the given ones."""
    builder = HostIdentity(30002, 30000, (30000, 40000))
    outcome = await bench.run(shell("id -u; id -g; id -G", identity=builder))
    assert outcome.lines == ["30002", "30000", "30000 40000"]


async def test_no_privilege_is_left(bench: Any, shell: Any) -> None:
    """All capability sets are empty, and none can be gained."""
    outcome = await bench.run(shell("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"))
    status = dict(line.split(":\t") for line in outcome.lines)
    assert {name: int(status[name], 16) for name in status if name.startswith("Cap")} == {
        f"Cap{name}": 0 for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")
    }
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def test_builder_is_the_first_of_its_namespace(bench: Any, shell: Any) -> None:
    """It is PID 1, leads its session, and sees no process but its own."""
    outcome = await bench.run(shell("echo $$; cut -d' ' -f1,5,6 /proc/1/stat; echo /proc/[0-9]*"))
    assert outcome.lines[:2] == ["1", "1 1 1"]
    assert len(outcome.lines[2].split()) <= 2


async def test_environment_is_exactly_the_given_one(bench: Any, container: Any) -> None:
    """Nothing of the daemon's or the spawner's environment shows."""
    described = container("/usr/bin/env")
    environment = ((b"PATH", b"/none"), (b"EMPTY", b""), (b"BYTES", b"\xc3\xa4 b"))
    described = replace(described, command=replace(described.command, environment=environment))
    outcome = await bench.run(described)
    assert sorted(outcome.lines) == ["BYTES=ä b", "EMPTY=", "PATH=/none"]


async def test_names_of_the_host_are_fixed(bench: Any, shell: Any) -> None:
    """Host name and domain name are those of the description, and cannot be changed."""
    outcome = await bench.run(shell("uname -n; cat /proc/sys/kernel/domainname; hostname x"))
    assert outcome.lines[:2] == ["localhost", "(none)"]
    assert socket.gethostname() != "x"


async def test_only_loopback_exists_and_is_up(bench: Any, shell: Any) -> None:
    """There is one interface, and the kernel answers on it."""
    script = "tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/net/route | wc -l"
    outcome = await bench.run(shell(script))
    assert [line.strip() for line in outcome.lines] == ["lo", "1"]
    listen = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "socket.create_connection(s.getsockname()); print('connected')"
    )
    outcome = await bench.run(shell(f'/usr/bin/python3 -I -S -c "{listen}"'))
    assert outcome.lines == ["connected"]


async def test_inputs_are_read_only_with_all_below_them(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """A bind is not writable for a builder that owns what is in it."""
    (tmp_path / "item").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "item", tmp_path / "file"):
        os.chown(path, 30001, 30000)
    operations = Bind(str(tmp_path / "item"), "/item"), Bind(str(tmp_path / "file"), "/file")
    outcome = await bench.run(
        shell("touch /item/x; chmod 700 /item; echo x > /file; true", operations=operations)
    )
    assert len(outcome.lines) == 3
    assert all("Read-only file system" in line for line in outcome.lines)


async def test_writable_bind_reaches_the_host(bench: Any, shell: Any, tmp_path: Path) -> None:
    """What a builder writes to its build directory is there afterwards, with its umask."""
    os.chown(tmp_path, 30001, 30000)
    bind = Bind(str(tmp_path), "/build", read_only=False)
    await bench.run(shell("echo made > /build/made", operations=(bind,)))
    assert (tmp_path / "made").read_text() == "made\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


async def test_symbolic_links_are_copied(bench: Any, shell: Any, tmp_path: Path) -> None:
    """A store item may be a link; what it points to outside does not show."""
    (tmp_path / "link").symlink_to("/etc/shadow")
    bind = Bind(str(tmp_path / "link"), "/store/link")
    outcome = await bench.run(shell("readlink /store/link; cat /store/link", operations=(bind,)))
    assert outcome.lines[0] == "/etc/shadow"
    assert "No such file" in outcome.lines[1]


async def test_absent_optional_sources_leave_nothing(bench: Any, shell: Any) -> None:
    """An optional bind without source is no error."""
    bind = Bind("/nonexistent/file", "/file", optional=True)
    outcome = await bench.run(shell("test -e /file || echo absent", operations=(bind,)))
    assert outcome.lines == ["absent"]


async def test_files_directories_and_links_are_as_described(bench: Any, shell: Any) -> None:
    """Contents, modes and owners are exact, whatever the umask."""
    operations = (
        File("/etc/group", b"nixbld:!:30000:\n", 0o640),
        Directory("/gnu/store", 0o1775, 0, 30000),
        Symlink("/link", "/etc/group"),
        Tmpfs("/scratch", size=1 << 20, mode=0o1777),
    )
    script = (
        "stat -c '%a %u %g' /etc/group /gnu/store / /gnu; readlink /link; stat -f -c %b /scratch"
    )
    outcome = await bench.run(shell(script, operations=operations))
    assert outcome.lines == ["640 0 0", "1775 0 30000", "555 0 0", "755 0 0", "/etc/group", "256"]


async def test_devices_work_and_terminals_can_be_made(bench: Any, shell: Any) -> None:
    """The usual devices are there, pseudo-terminals and shared memory too."""
    script = (
        "ls /dev; head -c 3 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full;"
        "touch /dev/x; echo y > /dev/shm/y && cat /dev/shm/y;"
        "/usr/bin/python3 -I -S -c 'import os; print(os.ttyname(os.openpty()[1]))'"
    )
    outcome = await bench.run(shell(script))
    names = [*DEVICES, "fd", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"]
    assert sorted(outcome.lines[: len(names)]) == sorted(names)
    assert outcome.lines[len(names)] == "3"
    assert "I/O error" in outcome.lines[len(names) + 1]
    assert "cannot touch" in outcome.lines[len(names) + 2]
    assert outcome.lines[len(names) + 3 :] == ["y", "/dev/pts/0"]


async def test_only_three_descriptors_are_inherited(bench: Any, shell: Any) -> None:
    """Standard input is empty; nothing else is open, and descriptor 1 is 2."""
    outcome = await bench.run(shell("cat; ls /proc/1/fd; ls -l /proc/self/fd/1 /proc/self/fd/2"))
    assert outcome.lines[:3] == ["0", "1", "2"]
    assert len({line.split(" -> ")[1] for line in outcome.lines[3:]}) == 1


async def test_standard_input_can_be_given(bench: Any, container: Any) -> None:
    """A descriptor for standard input arrives."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.write(writer, b"given\n")
    os.close(writer)
    outcome = await bench.run(container("/bin/cat"), stdin=reader)
    os.close(reader)
    assert outcome.lines == ["given"]


async def test_signals_have_their_default_actions(bench: Any, shell: Any) -> None:
    """Nothing is ignored or blocked, not even SIGPIPE, which Python ignores."""
    outcome = await bench.run(shell("grep -E '^Sig(Ign|Blk)' /proc/self/status"))
    assert [int(line.split()[1], 16) for line in outcome.lines] == [0, 0]


async def test_personality_limits_and_sacrifice_are_set(bench: Any, shell: Any) -> None:
    """Resource limits, the kernel's idea of the machine, and the score of the OOM killer."""
    described = shell(
        "ulimit -n; uname -m; uname -r; cat /proc/self/personality /proc/self/oom_score_adj",
        limits=(Limit(7, 111, 222),),
        personality=Personality(Persona.LINUX_32, linux_26=True),
    )
    outcome = await bench.run(described)
    files, machine, release, persona, score = outcome.lines
    assert (files, persona, score) == ("111", "00060008", "1000")
    assert machine in ("i686", "armv7l", "armv8l") or os.uname().machine not in (
        "x86_64",
        "aarch64",
    )
    assert release.startswith("2.6.")


async def test_a_directory_of_the_host_can_be_the_root(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """What is in it shows, and what is made in it stays, but for mounts."""
    (tmp_path / "old").touch()
    outcome = await bench.run(shell("ls /", root=Root(str(tmp_path), 0o505)))
    assert {"old", "dev", "usr", "tmp"} <= set(outcome.lines)
    assert sorted(os.listdir(tmp_path / "dev")) == []
    assert tmp_path.stat().st_mode & 0o777 == 0o505


async def test_nothing_of_the_hosts_tree_remains(bench: Any, shell: Any) -> None:
    """The mount table has the described mounts alone, and none of them propagates."""
    outcome = await bench.run(shell("cat /proc/self/mountinfo"))
    targets = [line.split()[4] for line in outcome.lines]
    assert targets[0] == "/"
    assert set(targets) - {f"/dev/{i}" for i in os.listdir("/dev")} == {
        "/",
        "/dev",
        "/proc",
        "/usr",
    }
    assert not any("shared:" in line or "master:" in line for line in outcome.lines)


async def test_without_network_namespace_the_hosts_is_used(bench: Any, shell: Any) -> None:
    """Only the network may be shared."""
    namespaces = tuple(i for i in Namespace if i is not Namespace.NETWORK)
    outcome = await bench.run(shell("readlink /proc/self/ns/net", namespaces=namespaces))
    assert outcome.lines == [os.readlink("/proc/self/ns/net")]


async def test_mounts_made_after_the_last_container_are_seen(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """Namespaces are made in advance, but never out of date."""
    source = tmp_path / "late"
    source.mkdir()
    await bench.run(shell("true"))
    mount(b"none", bytes(source), b"tmpfs", 0, None)
    try:
        (source / "new").touch()
        outcome = await bench.run(shell("ls /late", operations=(Bind(str(source), "/late"),)))
        assert outcome.lines == ["new"]
    finally:
        umount2(bytes(source), 0)


async def test_what_is_mounted_in_shared_places_stays_inside(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """Where the host's mounts propagate, as they do under systemd, no container's do."""
    for name in ("shared", "shared/place", "item"):
        (tmp_path / name).mkdir()
    shared = bytes(tmp_path / "shared")
    mount(shared, shared, None, MS_BIND, None)
    mount(None, shared, None, MS_SHARED, None)
    operations = (
        Bind(str(tmp_path / "shared"), "/shared", read_only=False),
        Bind(str(tmp_path / "item"), "/shared/place"),
    )
    try:
        outcome = await bench.run(shell("cat /proc/self/mountinfo", operations=operations))
        assert [line for line in outcome.lines if " /shared/place " in line]
        assert "shared:" not in outcome.output
        assert f"{tmp_path}/shared/place" not in Path("/proc/self/mountinfo").read_text()
    finally:
        umount2(shared, MNT_DETACH)


async def test_inputs_that_lie_side_by_side_are_as_single_ones(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """Read-only or not, directory, file, link or absent, with what is mounted below."""
    tmp_path.chmod(0o755)
    for number in range(8):
        (tmp_path / f"{number}").mkdir(mode=0o777)
        (tmp_path / f"{number}").chmod(0o777)
    (tmp_path / "file").write_text("text\n")
    (tmp_path / "link").symlink_to("file")
    mount(b"none", bytes(tmp_path / "7"), b"tmpfs", 0, None)
    try:
        (tmp_path / "7" / "below").touch()
        writable = [Bind(f"{tmp_path}/{i}", f"/w/{i}", read_only=False) for i in range(8)]
        names = (*map(str, range(8)), "file", "link", "absent")
        inputs = [Bind(f"{tmp_path}/{name}", f"/r/{name}", optional=True) for name in names]
        script = (
            "for i in 0 1 2 3 4 5 6; do touch /w/$i/made || echo $i; ! touch /r/$i/x || echo $i;"
            "done 2>/dev/null; cd /r; echo *; cat file; readlink link; ls 7; touch 7/x 2>&1"
        )
        outcome = await bench.run(shell(script, operations=(*writable, *inputs)))
    finally:
        umount2(bytes(tmp_path / "7"), 0)
    assert outcome.lines[:4] == ["0 1 2 3 4 5 6 7 file link", "text", "file", "below"]
    assert "Read-only file system" in outcome.lines[4]
    assert all(os.listdir(tmp_path / f"{number}") == ["made"] for number in range(7))


async def test_thousands_of_inputs_are_bound(bench: Any, shell: Any, tmp_path: Path) -> None:
    """A description of many operations arrives, and takes few descriptors of the spawner."""
    (tmp_path / "item").mkdir()
    binds = [Bind(str(tmp_path / "item"), f"/gnu/store/{i}") for i in range(2000)]
    binds += [Bind(str(tmp_path / "item"), f"/{i}/below") for i in range(200)]
    outcome = await bench.run(
        shell("ls /gnu/store | wc -l; ls -d /*/below | wc -l", operations=tuple(binds))
    )
    assert [int(line) for line in outcome.lines] == [2000, 200]


async def test_many_containers_run_at_once(bench: Any, shell: Any) -> None:
    """Requests are answered in order, and each gets its own process."""
    outcomes: list[str] = []

    async def one(number: int) -> None:
        outcomes.append((await bench.run(shell(f"echo {number}"))).output)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert sorted(outcomes, key=int) == [f"{i}\n" for i in range(20)]


async def test_plain_child_without_namespaces(bench: Any, shell: Any, tmp_path: Path) -> None:
    """Without a container ids, session, directory and the filter still apply."""
    described: Container = shell("id -u; pwd; umask; readlink /proc/self/ns/mnt; chmod 4755 x")
    command = replace(described.command, directory=str(tmp_path))
    tmp_path.parent.parent.chmod(0o711)
    tmp_path.parent.chmod(0o711)
    os.chown(tmp_path, 30001, 30000)
    (tmp_path / "x").touch()
    os.chown(tmp_path / "x", 30001, 30000)
    outcome = await bench.run(replace(described, command=command, namespaces=(), operations=()))
    assert outcome.lines[:4] == ["30001", str(tmp_path), "0022", os.readlink("/proc/self/ns/mnt")]
    assert "Operation not permitted" in outcome.lines[4]
