# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shell runs in the place of a builder."""

from pathlib import Path

import pytest

from builder.container import Command
from builder.entering.shells import find_shell, shell_command
from store.paths import StorePath

USUAL = Command(
    b"/gnu/store/x-guile/bin/guile",
    (b"guile", b"-s", b"build.scm"),
    ((b"PATH", b"/bin"), (b"TERM", b"dumb")),
    "/tmp/guix-build-x.drv-0",
    beneath="/gnu/store",
)


def item(tmp_path: Path, name: str, *shells: str) -> StorePath:
    """Make an item with some shells."""
    path = tmp_path / f"{'a' * 32}-{name}"
    (path / "bin").mkdir(parents=True)
    for shell in shells:
        (path / "bin" / shell).touch()
    return StorePath(str(path))


def test_the_builder_itself_is_taken_if_it_is_a_shell(tmp_path: Path):
    """Scripts are not."""
    builder = "/gnu/store/x-bash/bin/bash"
    assert find_shell(builder, [], [item(tmp_path, "bash-5.1", "bash")], []) == builder
    assert find_shell("/gnu/store/x-build.sh", [], [], []) == ""


def test_among_the_inputs_a_full_bash_comes_first(tmp_path: Path):
    """Before small ones, before inputs of inputs, before other shells."""
    named = [("busybox-1.36", "sh"), ("bash-static-5.1", "bash"), ("bash-minimal-5.1", "sh")]
    inputs = [item(tmp_path, *each) for each in named]
    expected = [inputs[2], inputs[1], inputs[0]]
    for count in (3, 2, 1):
        found = find_shell("/b", [], expected[3 - count :], [])
        assert found.startswith(f"{expected[3 - count]}/bin/")
    remote = item(tmp_path, "bash-5.0", "sh", "bash")
    direct = item(tmp_path, "bash-5.2", "sh", "bash")
    assert find_shell("/b", [direct], [*inputs, remote, direct], []) == f"{direct}/bin/bash"


@pytest.mark.parametrize(
    ("directories", "found"),
    [(["/bin"], True), (["/bin=/usr/bin"], True), (["/bin/sh"], True), (["/bi", "/usr"], False)],
)
def test_otherwise_a_shell_of_the_host_if_builders_see_it(directories: list[str], found: bool):
    """By its name in the container."""
    assert find_shell("/b", [], [], directories) == ("/bin/sh" if found else "")


def test_a_shell_has_all_else_as_the_builder_has_it():
    """Its environment and directory; but it may lie anywhere."""
    command = shell_command(USUAL, "/bin/sh", (), "")
    assert (command.program, command.arguments) == (b"/bin/sh", (b"sh",))
    assert (command.environment, command.directory) == (USUAL.environment, USUAL.directory)
    assert command.beneath is None
    terminal = shell_command(USUAL, "/bin/sh", (), "xterm")
    assert terminal.environment == ((b"PATH", b"/bin"), (b"TERM", b"xterm"))


def test_commands_are_found_by_the_shell_and_need_none_otherwise():
    """Their words are never parsed."""
    command = shell_command(USUAL, "/x/bash", ("make", "$(check)"), "")
    assert command.arguments == (b"bash", b"-c", b'"$@"; exit $?', b"bash", b"make", b"$(check)")
    direct = shell_command(USUAL, "", ("/x/make", "check"), "")
    assert (direct.program, direct.arguments) == (b"/x/make", (b"/x/make", b"check"))
    with pytest.raises(ValueError, match="NUL"):
        shell_command(USUAL, "/bin/sh", ("a\0b",), "")
