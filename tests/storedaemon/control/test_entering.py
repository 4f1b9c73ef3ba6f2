# SPDX-License-Identifier: GPL-3.0-or-later
"""Shells in the places of builders: real builds that fail, real containers and terminals."""

import os
import shutil
import signal
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.storedaemon.control.test_screens import Terminal

pytestmark = pytest.mark.slow

ALICE, BOB, BUILDER = 4711, 4712, 64301
SECONDS = 20
FAILING = """
echo evidence > file; mkdir d; ln file d/hard; ln -s /etc/passwd d/link
mkdir locked; echo hidden > locked/secret; chmod 0 locked/secret locked; exit 3
"""
DAEMONS = {
    "root": (),
    "users": ("--build-users-group=builders",),
    "rootless": (),
}
ACCOUNTS = {
    "group": "root:x:0:\nbuilders:x:64300:one\n",
    "passwd": f"root:x:0:0::/:/bin/sh\none:x:{BUILDER}:64300::/:/x\n",
}


class Entrance:
    """A daemon with one kept build."""

    def __init__(self, site: Any, builds: Path, script: str = FAILING) -> None:
        self.site = site
        self.builds = builds
        self.drv = site.describe("bad", script)["path"]

    def client(self, uid: int) -> Any:
        """Connect as a user who has a group of the same number."""
        own = os.getegid()
        os.setegid(uid)
        try:
            return self.site.client(uid)
        finally:
            os.setegid(own)

    def fail(self, uid: int = 0) -> Path:
        """Have the build fail, for a user; give what is kept of it."""
        client = self.client(uid) if uid else self.site.client()
        client.finish(client.begin("build", targets=[self.drv], **{"keep-failed": True}))
        [kept] = self.builds.iterdir()
        return kept

    def run(self, text: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """Enter with a pipe as standard input."""
        return subprocess.run(
            self.site.run.words("enter", *options[:1], self.drv, *options[1:]),
            env=self.site.run.environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def descriptors(self) -> int:
        """Count what the daemon has open, once no client of this test is there any more."""
        for client in self.site.clients:
            client.sock.close()
        end = time.monotonic() + SECONDS
        while (status := self.site.client().ask("status"))["sessions"] > 1:
            self.site.clients[-1].sock.close()
            assert time.monotonic() < end, status
        return len(os.listdir(f"/proc/{self.site.daemon.pid}/fd"))

    def wait_empty(self) -> None:
        """Wait until the daemon is busy with nothing, and only what is kept lies about."""
        end = time.monotonic() + SECONDS
        while self.site.goals() or len(list(self.builds.iterdir())) > 1:
            assert time.monotonic() < end, list(self.builds.iterdir())
            time.sleep(0.02)


@pytest.fixture
def enter(make_site: Callable[..., Any], tmp_path: Path) -> Callable[..., Entrance]:
    """Start daemons of each kind."""
    for name, text in ACCOUNTS.items():
        (tmp_path / name).write_text(text)
    mounts = " && ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ACCOUNTS)
    wrappers = {
        "root": (),
        "users": ("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"),
        "rootless": ("unshare", "--user", "--map-user=1000", "--map-group=1000"),
    }

    def start(kind: str, *options: str, script: str = FAILING) -> Entrance:
        builds = tmp_path / "builds"
        builds.mkdir()
        chosen = (f"--build-directory={builds}", "--max-jobs=1", *DAEMONS[kind], *options)
        return Entrance(make_site(*chosen, wrapper=wrappers[kind]), builds, script)

    return start


KINDS = [
    pytest.param("root", marks=pytest.mark.root),
    pytest.param("users", marks=pytest.mark.root),
    "rootless",
]


def holders_of(place: Path) -> list[str]:
    """Name the processes that have anything below a directory open or mounted."""
    return [
        pid
        for pid in filter(str.isdecimal, os.listdir("/proc"))
        for file in (Path(f"/proc/{pid}/mountinfo"),)
        if f"{place}/" in _text(file)
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # it has ended


@pytest.mark.parametrize("kind", KINDS)
def test_a_shell_sees_what_the_builder_saw(enter: Callable[..., Entrance], kind: str):
    """The same variables, directory, user and files; what it changes is kept, and nothing else."""
    script = f"env | sort > env; id > id; pwd >> id; {FAILING}"
    entrance = enter(kind, script=script)
    kept = entrance.fail()
    done = entrance.run(
        "env | sort | diff env - >&2; { id; pwd; } | diff id -; cat d/hard; "
        "ls /sys 2>/dev/null; echo more >> file; echo made > $out; stat -c %a locked; "
        "chmod 700 locked; stat -c %a locked/secret; exit 7\n"
    )
    assert done.stdout == "evidence\n0\n0\n", done
    assert done.returncode == 7
    assert (kept / "file").read_text() == (kept / "d/hard").read_text() == "evidence\nmore\n"
    assert os.readlink(kept / "d/link") == "/etc/passwd"
    entrance.wait_empty()
    assert not [name for name in os.listdir(entrance.site.daemon.store) if "chroot" in name]
    assert entrance.run("cat file").stdout == "evidence\nmore\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminal_is_one_in_the_container_too(enter: Callable[..., Entrance], kind: str):
    """It has a name there, the size of the outer one, and signals; the outer one is restored."""
    entrance = enter(kind)
    entrance.fail()
    shown = Terminal(entrance.site, "enter", entrance.drv, columns=91)
    before = termios.tcgetattr(shown.master)
    shown.read_until(b"$ ")
    assert termios.tcgetattr(shown.master) != before
    os.write(shown.master, b"tty; stty size; echo $TERM; ls -l $(tty)\n")
    shown.read_until(b"/dev/pts/0\r\n24 91\r\nxterm\r\n")
    shown.read_until(b"nixbld")
    ioctl(shown.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown.process.send_signal(signal.SIGWINCH)  # as it gets from a terminal that controls it
    os.write(
        shown.master,
        b"until [ \"$(stty size)\" = '40 120' ]; do sleep 0.02; done; echo re'sized'\n",
    )
    shown.read_until(b"resized")
    os.write(shown.master, b"sh -c \"echo be'gun'; exec sleep 1000\"\n")
    shown.read_until(b"begun")
    os.write(shown.master, b"\x03")
    shown.read_until(b"^C")
    os.write(shown.master, b"exit 5\n")
    assert shown.process.wait(SECONDS) == 5
    assert termios.tcgetattr(shown.master) == before
    os.close(shown.master)
    entrance.wait_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_leaves_takes_its_shell_with_it(enter: Callable[..., Entrance], kind: str):
    """All processes die, the directory is back, and the next one can enter."""
    entrance = enter(kind)
    kept = entrance.fail()
    client = entrance.site.client()
    script = "echo left > file; sleep 4242 & setsid sleep 4242 & echo ready; wait"
    client.begin("enter", path=entrance.drv, command=["sh", "-c", script])
    entered = client.receive()
    assert (entered["event"], entered["kept"]) == ("entered", str(kept))
    assert client.receive()["data"] == b"ready\n"
    [goal] = entrance.site.goals().values()
    assert (goal["state"], goal["mode"], goal["pid"]) == ("entered", "enter", entered["pid"])
    assert entrance.site.client().ask("status")["building"] == 0
    client.sock.close()
    entrance.wait_empty()
    assert not os.path.exists(f"/proc/{entered['pid']}")
    assert not any("sleep\0004242" in _text(each) for each in Path("/proc").glob("*/cmdline"))
    assert holders_of(entrance.builds) == []
    assert (kept / "file").read_text() == "left\n"
    assert entrance.run("cat file").stdout == "left\n"


@pytest.mark.root
def test_files_change_hands_and_back(enter: Callable[..., Entrance]):
    """They are the build user's inside and their owner's outside, but for none of others'."""
    entrance = enter("users", script="echo evidence > file; echo x > t; chmod 751 t; exit 3")
    kept = entrance.fail(ALICE)
    assert {kept.stat().st_uid, (kept / "file").stat().st_uid} == {ALICE}
    os.utime(kept / "t", ns=(1, 1_234_567_890_123_456_789))
    done = entrance.run("stat -c '%u %a %.9Y' t; id -u; echo new > new; chmod u+s new")
    assert done.stdout.split()[:4] == [str(BUILDER), "751", "1234567890.123456789", str(BUILDER)]
    for name in ("file", "t", "new", "."):
        assert (kept / name).stat().st_uid == ALICE
    assert not (kept / "new").stat().st_mode & stat.S_ISUID
    (kept / "roots").write_text("secret")
    refused = entrance.run("cat roots")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "`roots' in the kept build directory is user 0's" in refused.stderr
    entrance.wait_empty()


@pytest.mark.root
def test_what_is_not_the_kept_directory_any_more_is_left_alone(enter: Callable[..., Entrance]):
    """A link in its place is neither followed nor replaced; what the shell made is kept beside."""
    entrance = enter("users")
    kept = entrance.fail(ALICE)
    client = entrance.site.client()
    number = client.begin("enter", path=entrance.drv)
    assert client.receive()["event"] == "entered"
    kept.rename(kept.with_name("moved"))
    kept.symlink_to("/etc")
    client.send({"type": "chunk", "id": number, "data": b"echo new > file\n"})
    client.send({"type": "end", "id": number})
    answer, _ = client.finish(number)
    other = Path(answer["result"]["kept"])
    assert other not in (kept, kept.with_name("moved"))
    assert (other / "file").read_text() == "new\n"
    assert other.stat().st_uid == ALICE
    assert (kept.with_name("moved") / "file").read_text() == "evidence\n"
    assert os.readlink(kept) == "/etc"
    done = entrance.run("cat file")
    assert done.stdout == "new\n", done


@pytest.mark.root
def test_only_its_user_and_trusted_ones_enter_a_kept_build(enter: Callable[..., Entrance]):
    """Others are refused; a fresh container is anybody's, who could build in it just as well."""
    entrance = enter("users")
    entrance.fail(ALICE)
    bob = entrance.client(BOB)
    assert bob.fail("enter", path=entrance.drv)["reason"] == "not-privileged"
    for client, more in [
        (entrance.client(ALICE), {}),
        (entrance.site.client(), {}),
        (bob, {"fresh": True}),
    ]:
        answer, before = client.finish(
            client.begin("enter", path=entrance.drv, command=["echo", "in"], **more)
        )
        assert answer["result"]["code"] == 0
        assert [m["data"] for m in before if m["type"] == "chunk"] == [b"in\n"]
    entrance.wait_empty()


@pytest.mark.root
def test_a_shell_is_ended_by_its_user_and_by_trusted_ones(enter: Callable[..., Entrance]):
    """By the number that `ps` tells; all of it dies, its client is told, its work is kept."""
    entrance = enter("users")
    kept = entrance.fail(ALICE)
    alice, too, bob = (entrance.client(uid) for uid in (ALICE, ALICE, BOB))
    script = "echo left > file; echo ready; exec sleep 1000"
    for ending in (too, entrance.site):
        begun = alice.begin("enter", path=entrance.drv, command=["sh", "-c", script])
        entered = alice.receive()
        assert alice.receive()["data"] == b"ready\n"
        [goal] = entrance.site.goals().values()
        number = goal["shell"]
        assert f"shell {number}, pid {entered['pid']}" in entrance.site.run("ps").stdout
        assert bob.fail("end-shell", shell=number)["reason"] == "not-privileged"
        if ending is too:
            assert too.ask("end-shell", shell=number) == {"ended": True}
        else:
            assert ending.run("cancel", "--shell", str(number)).returncode == 0
        answer, _ = alice.finish(begun)
        assert (answer["reason"], answer["message"]) == ("cancelled", "the shell was ended")
        assert not os.path.exists(f"/proc/{entered['pid']}")
        assert (kept / "file").read_text() == "left\n"
        (kept / "file").write_text("evidence\n")
    assert too.ask("end-shell", shell=number) == {"ended": False}
    done = entrance.site.run("cancel", "--shell", str(number))
    assert done.returncode == 1
    assert f"there is no shell {number}" in done.stderr
    entrance.wait_empty()


@pytest.mark.root
def test_one_user_gets_half_of_the_shells(enter: Callable[..., Entrance]):
    """Rounded up, over all of the user's sessions; others get theirs, trusted ones any."""
    entrance = enter("root", "--max-shells=3")
    wish = {"path": entrance.drv, "fresh": True, "command": ["sleep", "1000"]}

    def begin(client: Any) -> None:
        client.begin("enter", **wish)
        assert client.receive()["event"] == "entered"

    for _ in range(2):
        begin(entrance.client(ALICE))
    refused = entrance.client(ALICE).fail("enter", **wish)
    assert refused["reason"] == "too-many"
    assert refused["message"].startswith("2 of your shells are running")
    begin(entrance.client(BOB))
    assert entrance.client(BOB).fail("enter", **wish)["message"].startswith("3 shells are")
    for client in entrance.site.clients:
        client.sock.close()
    entrance.wait_empty()
    for _ in range(3):
        begin(entrance.site.client())


def test_two_can_be_in_one_directory_without_knowing_of_each_other(
    enter: Callable[..., Entrance],
):
    """Who leaves first has its place; the other's copy is kept beside, and entered next."""
    entrance = enter("rootless")
    kept = entrance.fail()
    clients = [entrance.site.client() for _ in range(2)]
    numbers = [each.begin("enter", path=entrance.drv) for each in clients]
    assert [each.receive()["kept"] for each in clients] == [str(kept)] * 2
    places = []
    for name, client, number in zip(("one", "other"), clients, numbers, strict=True):
        client.send({"type": "chunk", "id": number, "data": f"echo {name} > file\n".encode()})
        client.send({"type": "end", "id": number})
        places.append(Path(client.finish(number)[0]["result"]["kept"]))
    assert places[0] == kept != places[1]
    assert [(place / "file").read_text() for place in places] == ["one\n", "other\n"]
    assert entrance.run("cat file").stdout == "other\n"


@pytest.mark.skipif(
    not (shutil.which("slirp4netns") and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="slirp4netns is not installed, or may not make network interfaces",
)
@pytest.mark.parametrize("kind", KINDS)
def test_fixed_outputs_have_their_network_in_a_shell_too(enter: Callable[..., Entrance], kind: str):
    """The interface that slirp4netns makes is there before the shell is, with a terminal or not."""
    entrance = enter(kind)
    fixed = {"algorithm": "sha256", "hash": "0" * 64}
    drv = entrance.site.describe("fetched", "exit 1", fixed=fixed)["path"]
    for terminal in (None, {}):
        client = entrance.site.client()
        wish = {"fresh": True, "terminal": terminal, "command": ["cat", "/proc/net/dev"]}
        answer, before = client.finish(client.begin("enter", path=drv, **wish))
        assert answer["result"]["code"] == 0
        assert b"tap0:" in b"".join(m["data"] for m in before if m["type"] == "chunk")


def test_what_cannot_be_entered_is_explained(enter: Callable[..., Entrance]):
    """Nothing kept, no derivation, no builder to replace, too many, too long."""
    entrance = enter("rootless", "--max-shells=1", "--shell-idle=1")
    done = entrance.run("exit")
    assert done.returncode == 1
    assert "is kept: build it with `--keep-failed', or enter a fresh one" in done.stderr
    client = entrance.site.client()
    source = client.add_script("source", "")
    assert client.fail("enter", path=source)["reason"] == "invalid-path"
    assert client.fail("enter", path=f"{entrance.drv[:-4]}x.drv")["reason"] == "not-valid"
    assert client.fail("resize", request=77)["reason"] == "not-supported"
    begun = client.begin("enter", path=entrance.drv, fresh=True)
    assert client.receive()["kept"] == ""
    busy = entrance.site.client().fail("enter", path=entrance.drv, fresh=True)
    assert busy["reason"] == "too-many"
    answer, _ = client.finish(begun)
    assert (answer["reason"], answer["message"]) == (
        "timed-out",
        "nothing was typed or printed for 1 seconds",
    )
    mute = {"command": ["sh", "-c", "exec >&- 2>&-; exec sleep 1000"], "fresh": True}
    assert client.fail("enter", path=entrance.drv, **mute)["reason"] == "timed-out"
    fresh = entrance.run("", "--fresh", "--command", "ls", "-A")
    assert (fresh.returncode, fresh.stdout) == (0, "")
    end = time.monotonic() + SECONDS
    while list(entrance.builds.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_terminal_is_restored_when_the_command_is_ended(enter: Callable[..., Entrance]):
    """By a signal as well; the shell ends with it."""
    entrance = enter("rootless")
    shown = Terminal(entrance.site, "enter", "--fresh", entrance.drv)
    before = termios.tcgetattr(shown.master)
    shown.read_until(b"$ ")
    pid = entrance.site.goals()["bad"]["pid"]
    shown.process.send_signal(signal.SIGTERM)
    assert shown.process.wait(SECONDS) == 128 + signal.SIGTERM
    assert termios.tcgetattr(shown.master) == before
    os.close(shown.master)
    end = time.monotonic() + SECONDS
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_much_goes_through_both_ways(enter: Callable[..., Entrance]):
    """More than pipes and windows hold, while the shell does as it likes with its input."""
    entrance = enter("rootless")
    sent = os.urandom(3 << 20).hex()
    done = entrance.run(sent, "--fresh", "--command", "cat")
    assert done.stdout == sent
    assert entrance.run(sent, "--fresh", "--command", "true").returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_in_the_daemon(enter: Callable[..., Entrance], kind: str):
    """No descriptor of a shell that ended, could not be executed, or lost its client."""
    entrance = enter(kind)
    entrance.fail()
    site, counts = entrance.site, []
    for _ in range(3):
        for terminal in (None, {"columns": 80, "rows": 24}):
            client = site.client()
            wish = {"path": entrance.drv, "terminal": terminal}
            client.finish(client.begin("enter", command=["true"], **wish))
            failed, _ = client.finish(client.begin("enter", command=["/no/such"], **wish))
            assert failed["result"]["code"] == 127
            client.begin("enter", **wish)
            assert client.receive()["event"] == "entered"
            client.sock.close()
            entrance.wait_empty()
        counts.append(entrance.descriptors())
    assert counts[1] == counts[2]
    assert holders_of(entrance.builds) == []


def test_a_daemon_that_stops_ends_shells_in_order(enter: Callable[..., Entrance]):
    """What they have changed is kept."""
    entrance = enter("rootless")
    kept = entrance.fail()
    client = entrance.site.client()
    script = "echo changed > file; echo ready; exec sleep 1000"
    client.begin("enter", path=entrance.drv, command=["sh", "-c", script])
    assert client.receive()["event"] == "entered"
    assert client.receive()["data"] == b"ready\n"
    assert entrance.site.daemon.stop() == 0
    assert (kept / "file").read_text() == "changed\n"
    assert os.listdir(entrance.builds) == [kept.name]
