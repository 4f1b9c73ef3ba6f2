# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made in advance for the next container fits it, or is given up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.container import (
    Bind,
    Command,
    Container,
    Devices,
    Directory,
    File,
    HostIdentity,
    Operation,
    PseudoTerminals,
    Root,
    SharedMemory,
    Tmpfs,
    arrange,
)
from builder.spawner.script import BIND, MAKE_FILE, Script, translate


def script_of(*operations: Operation) -> Script:
    """Translate a container with these operations."""
    command = Command(b"/bin/true", (b"true",))
    return translate(Container(command, HostIdentity(1, 1), operations=arrange(operations)))


def test_neither_files_nor_binds_are_groundwork():
    """What differs from build to build waits for the build."""
    script = script_of(
        Devices(), SharedMemory(), PseudoTerminals(), File("/etc/passwd", b"x"), Bind("/a", "/a")
    )
    names = [step[2] + b"/" + step[3] for step in script.groundwork.steps]
    assert names == [b"/dev", b"/dev/shm", b"/dev/pts"]
    assert {step[1] for step in script.steps} == {MAKE_FILE, BIND}


def test_what_lies_in_a_bind_waits_for_it():
    """However deep it lies."""
    script = script_of(Bind("/a", "/a"), Directory("/a/b/c"), Tmpfs("/ab"))
    assert [step[3] for step in script.groundwork.steps] == [b"ab"]
    assert [step[3] for step in script.steps] == [b"a", b"c"]


@pytest.mark.root
@pytest.mark.usefixtures("no_leaks")
async def test_containers_that_begin_differently_follow_each_other(bench: Any, shell: Any) -> None:
    """Each sees its own host name and directories, and no other's."""
    script = "hostname; ls -d /extra* 2>/dev/null || true"
    plain, named = shell(script), shell(script, host_name="other")
    extra = shell(script, operations=(Tmpfs("/extra"),))
    more = shell(script, operations=(Tmpfs("/extra"), Directory("/extra2")))
    for _ in range(2):
        assert (await bench.run(plain)).lines == ["localhost"]
        assert (await bench.run(extra)).lines == ["localhost", "/extra"]
        assert (await bench.run(extra)).lines == ["localhost", "/extra"]
        assert (await bench.run(named)).lines == ["other"]
        assert (await bench.run(more)).lines == ["localhost", "/extra", "/extra2"]


@pytest.mark.root
@pytest.mark.usefixtures("no_leaks")
async def test_files_are_those_of_the_container_that_has_them(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """Whatever the last one had in their place, and with which mode."""
    tmp_path.chmod(0o755)
    (tmp_path / "user").write_text("bound\n")
    group, outside = File("/etc/group", b"group\n"), str(tmp_path)
    containers: dict[tuple[Operation, ...], list[str]] = {
        (File("/etc/user", b"one\n"),): ["/etc/user:one"],
        (File("/etc/user", b"other\n"),): ["/etc/user:other"],
        (File("/etc/user", b"other\n", 0o600),): [],
        (): [],
        (Bind(f"{outside}/user", "/etc/user"),): ["/etc/user:bound"],
        (Bind(outside, "/opt/x"), File("/opt/y", b"y")): ["/opt/x/user:bound", "/opt/y:y"],
        (Bind(outside, "/opt"),): ["/opt/user:bound"],
    }
    for _ in range(2):
        for operations, seen in containers.items():
            described = shell(
                "grep -rs . /etc /opt | sort", operations=(Directory("/etc"), group, *operations)
            )
            for _ in range(2):
                assert (await bench.run(described)).lines == ["/etc/group:group", *seen]


@pytest.mark.root
@pytest.mark.usefixtures("no_leaks")
async def test_what_one_leaves_in_a_tmpfs_the_next_does_not_see(bench: Any, shell: Any) -> None:
    """Each gets file systems of its own."""
    script = "ls -A /dev/shm /extra; touch /dev/shm/left /extra/left"
    container = shell(script, operations=(Tmpfs("/extra", mode=0o1777),))
    for _ in range(3):
        assert (await bench.run(container)).lines == ["/dev/shm:", "", "/extra:"]


@pytest.mark.root
@pytest.mark.usefixtures("no_leaks")
async def test_nothing_is_made_in_a_directory_of_the_host_in_advance(
    bench: Any, shell: Any, tmp_path: Path
) -> None:
    """A root of the host's is touched for its own containers alone."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        root = Root(str(tmp_path / name))
        container = shell("echo ok", operations=(Directory(f"/of-{name}"),))
        assert (await bench.run(replace(container, root=root))).lines == ["ok"]
        (tmp_path / name / f"of-{name}").rmdir()
        await bench.run(shell("true"))
        assert not (tmp_path / name / f"of-{name}").exists()
