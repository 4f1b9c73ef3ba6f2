# SPDX-License-Identifier: GPL-3.0-or-later
"""Two people at terminals that tmux draws: what each of them has on the screen."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
]

SECONDS = 30


class Screen:
    """A terminal with a shell, drawn by a tmux server of its own."""

    def __init__(self, site: Any, socket: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        environment = {
            "PATH": os.environ["PATH"],
            "PS1": "ready$ ",
            "STOREDAEMON_SOCKET": site.run.socket,
            "TERM": "screen",
        }
        variables = shlex.join(f"{name}={value}" for name, value in environment.items())
        shell = f"cd {shlex.quote(os.getcwd())}; exec env -i {variables} /bin/sh"
        self._ask("new-session", "-d", "-x", "120", "-y", "30", shell)
        self.until("ready$")

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], check=True, capture_output=True, text=True, timeout=SECONDS
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line."""
        self._ask("send-keys", "-l", text)
        self.press("Enter")

    def run(self, *arguments: str) -> None:
        """Type a command of ours."""
        self.type(shlex.join([sys.executable, "-m", "storedaemon", *arguments]))

    def press(self, key: str) -> None:
        """Press a key by its name."""
        self._ask("send-keys", key)

    def show(self) -> str:
        """Give what is on the screen."""
        return self._ask("capture-pane", "-p", "-J")

    def until(self, *texts: str) -> str:
        """Wait until all of some texts are on the screen; give what is there then."""
        end = time.monotonic() + SECONDS
        while not all(text in (shown := self.show()) for text in texts):
            assert time.monotonic() < end, shown
            time.sleep(0.05)
        return shown

    def close(self) -> None:
        """End the server, and all that runs on the terminal."""
        self._ask("kill-server")


@pytest.fixture
def sit_down(tmp_path: Path) -> Iterator[Callable[[Any], Screen]]:
    """Open terminals on a site."""
    screens: list[Screen] = []

    def make(site: Any) -> Screen:
        screens.append(Screen(site, tmp_path / f"tmux-{len(screens)}"))
        return screens[-1]

    yield make
    for screen in screens:
        screen.close()


def test_one_builds_and_the_other_looks_on(site: Any, sit_down: Callable[[Any], Screen]):
    """The list of builds and the log are drawn, and give the terminal back as it was."""
    drv = site.describe("tool", "echo compiling things; await go; echo done with it; echo > $out")
    builder, visitor = sit_down(site), sit_down(site)
    builder.run("build", drv["path"])
    site.until(lambda goals: goals and goals["tool"]["last-line"])
    visitor.run("ps", "--watch", "--interval=0.1")
    shown = visitor.until("1 building", "tool", "compiling things")
    assert "ready$" not in shown
    visitor.press("C-c")
    visitor.until("ready$")
    assert "1 building" not in visitor.show()
    visitor.run("log", "-f", drv["path"])
    visitor.until("compiling things")
    site.open("go")
    visitor.until("done with it")
    builder.until(drv["outputs"]["out"], "ready$")


def test_one_fails_and_the_other_enters(
    make_site: Callable[..., Any], tmp_path: Path, sit_down: Callable[[Any], Screen]
):
    """There is a prompt in the builder's directory, and the shell's status afterwards."""
    site = make_site(f"--build-directory={tmp_path}")
    drv = site.describe("broken", "echo evidence > trace; exit 3")
    builder, visitor = sit_down(site), sit_down(site)
    builder.run("build", "--keep-failed", drv["path"])
    builder.until("failed with exit code 3")
    visitor.run("enter", drv["path"])
    visitor.type("echo I am in $PWD with $(cat trace)")
    visitor.until("I am in /tmp/guix-build-broken.drv-0 with evidence")
    visitor.type("exit 4")
    visitor.until("exit 4\nready$")
    visitor.type("echo it ended with $?")
    visitor.until("it ended with 4")
