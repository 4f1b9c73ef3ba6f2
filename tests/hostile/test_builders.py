# SPDX-License-Identifier: GPL-3.0-or-later
"""Builders that try to get out, to take what is not theirs, or to leave what cannot be kept.

They run the machine's Python, which is shown to them read-only.
"""

import os
import socket
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.derivations import Derivation, Output, fill_output_paths, unparse_derivation
from store.nar.events import Content, Regular
from store.nar.writer import write
from store.paths import StoreDirectory, StorePath
from tests.soundness import footprint, leaks, leftovers, unsound_items
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

SYSTEM = f"{os.uname().machine}-linux"
PYTHON = os.path.realpath(sys.executable)
HOST = ("/bin", "/usr", "/lib", "/lib64", os.path.realpath(sys.base_prefix))

PRELUDE = """
import os, sys, socket, ctypes, subprocess, time
out = os.environ["out"]
libc = ctypes.CDLL(None, use_errno=True)
def forbidden(what):
    try:
        result = what()
    except OSError:
        return
    assert result == -1, "it was allowed"
"""

pytestmark = pytest.mark.root


class Yard:
    """A daemon that builds, and a client of it."""

    def __init__(self, daemon: RunningDaemon, client: GuixClient, builds: Path) -> None:
        self.daemon = daemon
        self.client = client
        self.builds = builds
        content = Path("/bin/sh").read_bytes()
        events = [Regular(b"", True, len(content)), Content(memoryview(content))]
        self._shell = StorePath(client.add_nar("sh", map(bytes, write(events))))

    def add(self, script: str, name: str = "hostile") -> tuple[str, str]:
        """Add a derivation whose builder runs a Python script; give it and its output."""
        code = PRELUDE + textwrap.dedent(script)
        env = {"PATH": "/bin:/usr/bin", "code": code, "python": PYTHON}
        bare = Derivation(
            {"out": Output("")},
            {},
            (self._shell,),
            SYSTEM,
            self._shell,
            ("-c", 'exec "$python" -I -c "$code"'),
            env,
        )
        drv = fill_output_paths(bare, name, StoreDirectory(self.daemon.store), _no_input)
        path = self.client.add_text(f"{name}.drv", unparse_derivation(drv), [self._shell])
        return path, drv.outputs["out"].path

    def build(self, script: str) -> str:
        """Build what succeeds; give its output."""
        drv, output = self.add(script)
        try:
            self.client.build(drv)
        except RequestFailedError as error:
            pytest.fail(f"{error.message}\n{self.client.text}")
        return output

    def failure(self, script: str) -> str:
        """Build what fails; give all that was said of it."""
        drv, output = self.add(script)
        with pytest.raises(RequestFailedError) as caught:
            self.client.build(drv)
        assert not self.client.is_valid(output)
        return f"{self.client.text}\n{caught.value.message}"


def _no_input(path: StorePath) -> bytes:
    raise KeyError(path)


@pytest.fixture
def yard(start_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> Iterator[Yard]:
    """A daemon for one builder, after which nothing is left and all is sound."""
    builds = tmp_path / "builds"
    builds.mkdir()
    host = [f"--chroot-directory={path}" for path in dict.fromkeys(HOST) if os.path.isdir(path)]
    daemon = start_daemon("--max-jobs=1", f"--build-directory={builds}", *host)
    with GuixClient(daemon.guix_socket) as client:
        client.set_options(build_verbosity=0)
        opened = Yard(daemon, client, builds)
        opened.build("open(out, 'w').write('warm')")
        before = footprint(daemon)
        yield opened
        assert client.all_valid_paths()
        assert leaks(daemon, before) == []
        assert leftovers(daemon, builds) == []
        assert unsound_items(daemon) == []


@pytest.mark.parametrize(
    "attempt",
    [
        "libc.mount(b'/', b'/tmp', None, 4096, None)",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/proc', 2)",
        "libc.chroot(b'/tmp')",
        "libc.sethostname(b'evil', 4)",
        "libc.ptrace(16, os.getppid() or 2, 0, 0)",
        "libc.swapon(b'/tmp/x', 0)",
        "os.mknod(out, 0o60666, 0x801)",
        "os.chmod('/tmp', 0o6777)",
        "os.setxattr('/tmp', 'user.x', b'y')",
        "os.setxattr('/tmp', 'security.capability', b'y')",
        # Only opened: where that is possible, writing would change the whole machine.
        "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)",
        "os.open('/proc/sys/kernel/hostname', os.O_WRONLY)",
        "os.open('/proc/sys/vm/drop_caches', os.O_WRONLY)",
        "os.open('/proc/sys/fs/binfmt_misc/register', os.O_WRONLY)",
        "os.open('/proc/sysrq-trigger', os.O_WRONLY)",
        "os.open('/proc/kcore', os.O_RDONLY)",
        "os.open('/sys/kernel/uevent_helper', os.O_WRONLY)",
        "os.open('/dev/mem', os.O_RDONLY)",
        "os.open('/dev/kmsg', os.O_RDONLY)",
    ],
)
@pytest.mark.slow
def test_what_only_a_machines_administrator_may_do_is_refused(yard: Yard, attempt: str):
    """Within the builder's own namespaces too, where it would be harmless but impure."""
    yard.build(f"forbidden(lambda: {attempt}); open(out, 'w').write('x')")


def test_what_holds_the_daemons_sockets_is_out_of_reach(yard: Yard):
    """The daemon's directories are not there, nor is any process but the builder's."""
    paths = [yard.daemon.guix_socket, yard.daemon.native_socket, yard.daemon.state]
    yard.build(
        f"""
        for path in {paths}:
            assert not os.path.exists(path), path
        pids = [name for name in os.listdir('/proc') if name.isdigit()]
        assert pids == ['1'], pids
        assert not os.path.exists('/proc/1/root{yard.daemon.base}/guix')
        for fd in range(3, 256):
            try:
                os.fstat(fd)
            except OSError:
                continue
            raise AssertionError(f'descriptor {{fd}} is open')
        open(out, 'w').write('x')
        """
    )


def test_abstract_sockets_lead_nowhere(yard: Yard):
    """They belong to the network namespace: a descriptor cannot be passed out through one."""
    name = f"\0hostile-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        yard.build(
            f"""
            sock = socket.socket(socket.AF_UNIX)
            forbidden(lambda: sock.connect({name!r}))
            open(out, 'w').write('x')
            """
        )


def test_the_machines_network_leads_nowhere(yard: Yard):
    """A server on the loopback interface of the machine is not that of the builder."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        yard.build(
            f"""
            forbidden(lambda: socket.create_connection(('127.0.0.1', {port}), 2))
            open(out, 'w').write('x')
            """
        )


def test_many_processes_end_with_their_builder(yard: Yard):
    """Two hundred that ignore signals, in sessions of their own."""
    yard.build(
        """
        import signal
        read, write = os.pipe()
        for _ in range(200):
            if os.fork() == 0:
                os.setsid()
                for number in range(1, 32):
                    if number not in (9, 17, 19):
                        signal.signal(number, signal.SIG_IGN)
                os.write(write, b'x')
                os.close(1), os.close(2)
                time.sleep(1000)
                os._exit(0)
        seen = 0
        while seen < 200:
            seen += len(os.read(read, 200))
        open(out, 'w').write('x')
        """
    )


def test_an_output_is_not_swapped_after_its_builder(yard: Yard):
    """What a background process does to the tree ends before the tree is read."""
    secret = yard.daemon.base / "secret"
    secret.write_text("secret")
    output = yard.build(
        f"""
        os.makedirs(f'{{out}}/d')
        open(f'{{out}}/d/f', 'w').write('mine')
        if os.fork() == 0:
            os.setsid()
            os.close(1), os.close(2)
            while True:
                os.rename(f'{{out}}/d', f'{{out}}/e')
                os.symlink('{secret.parent}', f'{{out}}/d')
                os.unlink(f'{{out}}/d')
                os.rename(f'{{out}}/e', f'{{out}}/d')
        """
    )
    assert secret.read_text() == "secret"
    assert secret.stat().st_mtime != 1
    for path in Path(output).rglob("*"):
        assert path.is_symlink() or path.is_dir() or path.read_text() == "mine"


def test_links_that_lead_out_are_kept_as_they_are(yard: Yard):
    """Nothing that they point to is read, owned or touched."""
    secret = yard.daemon.base / "secret"
    secret.write_text("secret")
    before = secret.stat()
    output = yard.build(f"os.mkdir(out); os.symlink('{secret}', f'{{out}}/link')")
    assert os.readlink(f"{output}/link") == str(secret)
    assert secret.stat() == before


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("os.mkfifo(out)", "fifo"),
        ("os.mkdir(out); os.mkfifo(f'{out}/pipe')", "pipe"),
        ("os.mkdir(out); os.chdir(out); socket.socket(socket.AF_UNIX).bind('s')", "/s"),
        ("pass", "failed to produce output path"),
        ("open(out, 'w'); os.chmod(out, 0o666)", "suspicious ownership or permission"),
    ],
)
@pytest.mark.slow
def test_an_output_that_cannot_be_kept_is_refused(yard: Yard, script: str, word: str):
    """The message says what was wrong."""
    said = yard.failure(script)
    assert word in said or "unknown type" in said or "unsupported" in said, said


def test_an_output_of_any_depth_is_judged_and_deleted(yard: Yard):
    """Deeper than archives may be, and longer than a path may be."""
    said = yard.failure(
        """
        os.mkdir(out)
        os.chdir(out)
        for _ in range(2000):
            os.mkdir('d' * 200)
            os.chdir('d' * 200)
        """
    )
    assert "more than 64 directories" in said or "deep" in said, said


def test_names_may_hold_any_bytes(yard: Yard):
    """Newlines, invalid UTF-8, control characters, and what looks like options."""
    output = yard.build(
        """
        os.mkdir(out)
        for name in (b'a\\nb', b'\\xff\\xfe', b'\\x1b[31m', b'-rf', b'*', b'x' * 255, b'\\\\'):
            open(out.encode() + b'/' + name, 'w').write('x')
        """
    )
    assert len(os.listdir(os.fsencode(output))) == 7
    assert b"\xff\xfe" in os.listdir(os.fsencode(output))


@pytest.mark.slow
def test_a_hundred_thousand_names_are_kept(yard: Yard):
    """Long ones, in one directory; the daemon does not hold them."""
    before = footprint(yard.daemon).resident
    output = yard.build(
        """
        os.mkdir(out)
        fd = os.open(out, os.O_RDONLY)
        open(f'{out}/0', 'w').close()
        for number in range(100_000):
            os.symlink('0', f'{number:0200}', dir_fd=fd)
        """
    )
    assert len(os.listdir(output)) == 100_001
    assert footprint(yard.daemon).resident - before < 64 << 10


def test_shared_memory_is_given_back(yard: Yard):
    """What a builder puts into /dev/shm goes with it."""
    used = _shared_memory()
    yard.build(
        """
        with open('/dev/shm/large', 'wb') as file:
            file.write(bytes(32 << 20))
        assert os.listdir('/dev/shm') == ['large']
        open(out, 'w').write('x')
        """
    )
    assert _shared_memory() - used < 16 << 10
    assert not os.path.exists("/dev/shm/large")


def _shared_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:"))


def test_a_builder_cannot_speak_as_the_daemon(yard: Yard):
    """Lines that look like traces are only output: the build fails all the same."""
    said = yard.failure("print('@ build-succeeded x -', flush=True); sys.exit(1)")
    assert "failed with exit code 1" in said
