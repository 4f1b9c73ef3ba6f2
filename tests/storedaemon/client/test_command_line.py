# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands against a real daemon: the example, failures, programs that read JSON."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.storedaemon.command_line import CommandLine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "contrib/examples/tally/recipe.toml"

SCRIPTS = '''
[derivations.good]
outputs = ["out", "doc"]
script = """
#!/bin/sh
echo making; echo G > $out; echo D > $doc
"""
[derivations.bad]
script = """
#!/bin/sh
echo before the end; exit 3
"""
[derivations.slow]
script = """
#!/bin/sh
echo on; while :; do read x; done </dev/zero
"""
[derivations.hopeless]
script = "#!/bin/sh"
inputs = ["bad"]
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe file with builds that end in each way."""
    file = tmp_path / "r.toml"
    file.write_text(SCRIPTS.replace('"""\n#!', '"""#!'))
    return str(file)


@pytest.fixture
def run(building_daemon: Any) -> CommandLine:
    """Run a command against the daemon."""
    return CommandLine(building_daemon.native_socket)


def test_the_example_is_built_and_runs(run: CommandLine, tmp_path: Path):
    """What `make run` does: four builds, a program, and nothing to do the second time."""
    link = tmp_path / "result"
    done = run("build", str(EXAMPLE))
    assert done.returncode == 0, done.stderr
    assert "tally-check-1.0> ok 11" in done.stderr
    program = f"{done.stdout.strip()}/bin/tally"
    sample = EXAMPLE.parent / "tests"
    told = subprocess.run(
        [program, "-n", "3", sample / "sample.txt"], capture_output=True, text=True, check=True
    )
    assert told.stdout == (sample / "expected.txt").read_text()
    again = run("build", str(EXAMPLE), "--link", str(link))
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert os.readlink(link) == done.stdout.strip()


def test_exit_codes_tell_how_builds_end(run: CommandLine, recipe: str):
    """Programs need not read messages."""
    good = run("build", recipe, "good")
    assert good.returncode == 0
    assert len(good.stdout.splitlines()) == 2
    bad = run("build", recipe, "bad", "-q")
    assert bad.returncode == 100
    assert "before the end" in bad.stderr
    assert run("build", recipe, "hopeless").returncode == 100
    assert run("build", recipe, "--timeout=1", "slow").returncode == 101
    unknown = run("build", recipe, "nonsense")
    assert unknown.returncode == 1
    assert "only good, bad" in unknown.stderr
    assert run("build", "x.toml", "y.toml").returncode == 2


def test_errors_of_recipes_name_the_place(run: CommandLine, tmp_path: Path):
    """Whether this side or the daemon finds the mistake, the table is named."""
    file = tmp_path / "r.toml"
    for text, error in [
        ('[derivations.a]\nscript = "#!/x"\nname = "a b"', "[derivations.a]: invalid character"),
        ('[derivations.a]\nscript = "#!/x"\nhash = "sha256:xyz"', "[derivations.a]: hash `xyz'"),
        ('[sources]\ns = "no"\n[derivations.a]\nbuilder = "${s}"', "[derivations.a]: "),
    ]:
        file.write_text(text)
        done = run("build", str(file))
        assert done.returncode == 1, done
        assert f"{file}: {error}" in done.stderr


def test_what_is_in_the_store_may_be_named_by_relative_paths(run: CommandLine, recipe: str):
    """As shells complete them; so for derivations with outputs after them."""
    outputs = run("build", recipe, "good").stdout.split()
    output = next(each for each in outputs if each.endswith("-good"))
    relative = os.path.relpath(output)
    assert run("path-info", relative).stdout == run("path-info", output).stdout != ""
    assert run("log", relative).stdout == "making\n"
    deriver = json.loads(run("path-info", "--json", output).stdout)[0]["deriver"]
    assert output in run("build", f"{os.path.relpath(deriver)}!out").stdout.split()


def test_the_help_of_serve_tells_defaults():
    """Of numbers, choices and switches."""
    text = " ".join(CommandLine("")("serve", "--help").stdout.split())
    assert "0: none (4)" in text
    assert "how build logs are stored (gzip)" in text
    assert "keeps the derivers of live items (yes)" in text


def test_json_is_for_programs(run: CommandLine, recipe: str):
    """Each command's JSON parses, and has what the plain form has."""
    lines = [
        json.loads(line) for line in run("build", "--json", recipe, "good").stdout.splitlines()
    ]
    assert next(line["event"] for line in lines if line["event"] != "planned") == "started"
    (outputs,) = lines[-1]["outputs"].values()
    assert Path(outputs["doc"]).read_text() == "D\n"
    (info,) = json.loads(run("path-info", "--json", outputs["out"]).stdout)
    assert info["path"] == outputs["out"]
    assert json.loads(run("references", "--json", "--closure", outputs["out"]).stdout)
    added = json.loads(run("add", "--json", recipe).stdout)
    assert Path(added["path"]).read_text() == Path(recipe).read_text()
    assert json.loads(run("ps", "--json").stdout) == []
    assert json.loads(run("version", "--json").stdout)["trusted"] is True
    assert run("log", outputs["out"]).stdout == "making\n"


def test_an_interrupted_build_is_ended(run: CommandLine, recipe: str):
    """Ctrl-C ends the command with its code, and the build that only it wanted."""
    process = subprocess.Popen(
        run.words("build", recipe, "slow"), env=run.environment, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    while b"> on" not in process.stderr.readline():
        pass
    (goal,) = json.loads(run("ps", "--json").stdout)
    assert goal["state"] == "building"
    assert f"{goal['drv']}\n  building" in run("ps").stdout
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.stderr.close()
    end = time.monotonic() + 10
    while json.loads(run("ps", "--json").stdout):
        assert time.monotonic() < end
    assert run("cancel", goal["drv"]).returncode == 1
