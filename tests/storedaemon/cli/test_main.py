# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line itself: help that comes at once, errors that help, exit codes."""

import os
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from storedaemon.cli.main import main, parse, single_cause
from storedaemon.cli.parser import make_parser
from storedaemon.option_table import OPTIONS
from storedaemon.version import VERSION

ROOT = Path(__file__).parents[3]

HEAVY = {"trio", "structlog", "apsw", "cbor2", "pyroute2", "prctl", "asyncio", "hypothesis"}


def seconds(*command: str) -> float:
    """Measure the least processor time of a command; on a busy machine it varies."""

    def once() -> float:
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(5))


def test_help_imports_nothing_heavy():
    """What only some commands need is not loaded for help."""
    code = (
        "import sys\n"
        "from storedaemon.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "exit codes" in done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_help_comes_at_once():
    """Help costs little beside the interpreter's own start."""
    bare = seconds(sys.executable, "-c", "import argparse, dataclasses, typing")
    assert seconds(sys.executable, "-m", "storedaemon", "--help") < bare + max(0.1, 2 * bare)


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]):
    """The program and the package agree on their version."""
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"storedaemon {VERSION}\n"


def test_every_option_of_the_daemon_is_one_of_serve():
    """The configuration file and the command line know the same options."""
    parsed = vars(make_parser(["serve"]).parse_args(["serve"]))
    assert {option.name for option in OPTIONS} <= parsed.keys()


def test_common_options_stand_before_and_after_the_command():
    """Where --socket and --json stand makes no difference."""
    parser = make_parser(["ps"])
    before = parser.parse_args(["--socket", "/s", "--json", "ps"])
    after = parser.parse_args(["ps", "--socket", "/s", "--json"])
    assert vars(before) == vars(after)
    assert parser.parse_args(["ps"]).socket is None


def test_operands_stand_on_both_sides_of_options():
    """A recipe file first, then options, then names of recipes: people write it so."""
    options = parse(["build", "r.toml", "--timeout", "3", "a", "-q", "b"])
    assert options.targets == ["r.toml", "a", "b"]
    assert (options.timeout, options.quiet) == (3, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "x", "--nonsense"],
        [],
        ["nonsense"],
        ["build"],
        ["build", "x", "--cores", "many"],
        ["ps", "x"],
        ["log", "a", "b"],
    ],
)
def test_a_wrong_command_line_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """Usage errors show the usage."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_no_daemon_is_code_3_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The error names the socket that was tried, and the ways to a daemon."""
    socket = str(tmp_path / "nowhere")
    assert main(["--socket", socket, "ps"]) == 3
    error = capsys.readouterr().err
    assert socket in error
    assert "storedaemon serve" in error
    assert "--socket" in error


def test_the_socket_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A variable spares the option."""
    monkeypatch.setenv("STOREDAEMON_SOCKET", str(tmp_path / "from-variable"))
    assert main(["references", "/gnu/store/x"]) == 3
    assert "from-variable" in capsys.readouterr().err


def test_version_without_a_daemon_still_tells_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Half an answer is better than none, and the code tells it is half."""
    assert main(["version", "--socket", str(tmp_path / "x"), "--json"]) == 3
    assert f'"storedaemon {VERSION}"' in capsys.readouterr().out


def test_wrong_configuration_names_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A mistake in the file is found before anything starts."""
    file = tmp_path / "c.toml"
    file.write_text('max-jobz = "x"\n')
    assert main(["serve", "--config", str(file)]) == 1
    assert f"{file}: there is no option 'max-jobz'" in capsys.readouterr().err
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml: No such file" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path):
    """Like any filter, the program ends quietly when its output is closed."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "storedaemon", "version", "--socket", str(tmp_path / "x")],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""


def test_an_interrupt_among_other_errors_counts():
    """Of several tasks' errors the interrupt decides; otherwise the first."""
    group = BaseExceptionGroup("x", [ValueError(), BaseExceptionGroup("y", [KeyboardInterrupt()])])
    assert isinstance(single_cause(group), KeyboardInterrupt)
    assert isinstance(single_cause(ExceptionGroup("x", [ValueError(), OSError()])), ValueError)
