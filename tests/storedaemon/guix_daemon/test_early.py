# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets that listen before the command line is judged, and what becomes of them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storedaemon.addresses import UnixAddress, parse_address
from storedaemon.guix_daemon.early import Claim, claim
from storedaemon.sockets import open_listeners

from .test_program import PROGRAM


@pytest.fixture
def old(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket of another daemon, which listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/socket")
        sock.listen()
        sock.settimeout(5)
        yield sock


def reaches(path: str, listener: socket.socket) -> bool:
    """Connect, and say whether that socket has a newcomer."""
    listener.setblocking(False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return False
    return True


def give_up(claims: dict[str, Claim]) -> None:
    """Have everything as it was."""
    for each in claims.values():
        each.give_up()


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--he"],
        ["-V"],
        ["-c", "4"],
        ["--li=/somewhere"],
        ["--listen", "/somewhere"],
        ["--HANG"],
        ["operand"],
        ["--"],
    ],
)
def test_only_a_plain_command_line_claims(tmp_path: Path, words: list[str]):
    """What asks for no daemon, or has to be read with more knowledge, does not."""
    environment = {"GUIX_STATE_DIRECTORY": str(tmp_path)}
    assert claim([f"--listen={tmp_path}/socket", *words], environment) == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["relative/x", "/double//slash", "[::1]:1", "localhost:x", ":1"])
def test_unusual_addresses_are_left_for_later(text: str, tmp_path: Path):
    """And so are sockets that a service manager hands over."""
    assert claim([f"--listen={text}"], {}) == {}
    state = {"GUIX_STATE_DIRECTORY": str(tmp_path)}
    assert claim([], {**state, "LISTEN_FDS": "1"}) == {}


def test_the_default_socket_is_claimed(tmp_path: Path):
    """For everybody to connect; but no directory is made for what may be a mistake."""
    path = f"{tmp_path}/daemon-socket/socket"
    environment = {"GUIX_STATE_DIRECTORY": str(tmp_path)}
    assert claim(["--max-jobs=4"], environment) == {}
    os.mkdir(f"{tmp_path}/daemon-socket")
    claims = claim(["--max-jobs=4"], environment)
    assert list(claims) == [path]
    assert os.stat(path).st_mode & 0o777 == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    give_up(claims)
    assert not os.path.exists(path)


def test_claims_are_named_as_addresses_are(tmp_path: Path):
    """So the configuration finds them; each is claimed once."""
    words = [f"--listen={text}" for text in (f"{tmp_path}/one", "127.0.0.1:0", f"{tmp_path}/one")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    claims = claim([*words, f"--listen=localhost:{port}"], {})
    assert list(claims) == [f"{tmp_path}/one", f"localhost:{port}"]
    addresses = [parse_address(text) for text in claims]
    listeners = open_listeners(addresses, (), claims=claims)
    assert [each.is_remote for each in listeners] == [False, True]
    assert listeners[1].address.endswith(f":{port}")
    give_up(claims)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/one")
    for each in listeners:
        each.close()
    assert os.listdir(tmp_path) == []


def test_who_listened_before_is_back_if_nothing_comes_of_it(tmp_path: Path, old: socket.socket):
    """As long as it is not certain that there will be a daemon, nobody has lost a socket."""
    path = f"{tmp_path}/socket"
    claims = claim([f"--listen={path}"], {})
    assert not reaches(path, old)
    give_up(claims)
    assert reaches(path, old)
    assert os.listdir(tmp_path) == ["socket"]


def test_who_listened_before_is_gone_when_it_is_taken(tmp_path: Path, old: socket.socket):
    """The directory holds the new socket alone."""
    path = f"{tmp_path}/socket"
    claims = claim([f"--listen={path}"], {})
    (listener,) = open_listeners((UnixAddress(path),), (), claims=claims)
    give_up(claims)
    assert os.listdir(tmp_path) == ["socket"]
    assert not reaches(path, old)
    assert reaches(path, listener.socket)
    listener.close()


def test_a_file_that_is_no_socket_stays(tmp_path: Path):
    """It is refused later, with the usual error."""
    (tmp_path / "socket").write_text("precious")
    assert claim([f"--listen={tmp_path}/socket"], {}) == {}
    assert (tmp_path / "socket").read_text() == "precious"


@pytest.mark.parametrize("mistake", ["--cores=x", "--bogus", "--system"])
def test_a_mistake_leaves_a_running_daemon_its_socket(
    tmp_path: Path, old: socket.socket, mistake: str
):
    """The program itself, started with a command line that turns out to be wrong."""
    path = f"{tmp_path}/socket"
    result = subprocess.run(
        [PROGRAM, f"--listen={path}", mistake],
        env={**os.environ, "STOREDAEMON_PYTHON": sys.executable},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert result.returncode in {1, 64}
    assert reaches(path, old)


@contextmanager
def claimant(path: str, code: str, said: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program that claims a socket, from when it has said a line."""
    with subprocess.Popen(
        [sys.executable, "-c", code, f"--listen={path}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == said
        yield process


def killed_claimant(path: str, standstill: str) -> None:
    """Have a process claim a socket, and kill it where it stands still and says so."""
    code = (
        "import signal, sys\n"
        "from storedaemon.guix_daemon import early\n"
        "def stand_still(*_): print('here', flush=True); signal.pause()\n"
        f"{standstill}\n"
        "early.claim(sys.argv[1:], {})\n"
        "stand_still()"
    )
    with claimant(path, code, "here\n") as process:
        process.kill()


@pytest.mark.parametrize("standstill", ["early.Claim = stand_still", ""], ids=["moved", "claimed"])
def test_a_claim_that_was_killed_is_made_good_by_the_next(
    tmp_path: Path, old: socket.socket, standstill: str
):
    """Who listened before the one that was killed gets its place back, or is gone for good."""
    path = f"{tmp_path}/socket"
    killed_claimant(path, standstill)
    assert "socket.before" in os.listdir(tmp_path)
    give_up(claim([f"--listen={path}"], {}))
    assert os.listdir(tmp_path) == ["socket"]
    assert reaches(path, old)
    killed_claimant(path, standstill)
    claims = claim([f"--listen={path}"], {})
    (listener,) = open_listeners((UnixAddress(path),), (), claims=claims)
    assert os.listdir(tmp_path) == ["socket"]
    assert reaches(path, listener.socket)
    listener.close()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_claim_left_does_not_replace_a_daemon(tmp_path: Path, old: socket.socket):
    """One that has begun to listen there since; what is no socket is left alone."""
    path = f"{tmp_path}/socket"
    killed_claimant(path, "")
    old.close()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as new:
        new.bind(path)
        new.listen()
        give_up(claim([f"--listen={path}"], {}))
        assert os.listdir(tmp_path) == ["socket"]
        assert reaches(path, new)
        (tmp_path / "socket.before").write_text("precious")
        assert claim([f"--listen={path}"], {}) == {}
        assert reaches(path, new)
    assert (tmp_path / "socket.before").read_text() == "precious"


def test_a_signal_before_there_is_a_daemon_gives_back_the_socket(
    tmp_path: Path, old: socket.socket
):
    """As soon as it can be caught, it ends the process in order."""
    path = f"{tmp_path}/socket"
    code = (
        "from storedaemon.guix_daemon import early, main\n"
        "import signal\n"
        "main.main = lambda claims: print('claimed', *claims, flush=True) or signal.pause()\n"
        "early.run()"
    )
    with claimant(path, code, f"claimed {path}\n") as process:
        process.terminate()
        assert process.wait(20) == 0
    assert reaches(path, old)
