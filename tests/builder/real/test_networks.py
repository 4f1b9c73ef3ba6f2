# SPDX-License-Identifier: GPL-3.0-or-later
"""What network builders have: fixed outputs one of their own that leads out, others none."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from builder import users
from builder.network import TUN, NetworkMode
from builder.spawner.landlock import make_ruleset
from builder.users import BuildUser
from store.paths import StorePath
from tests.builder.real.conftest import OpenYard, Yard

TEXT = b"from the network\n"
NOTHING = b"nothing"
BUILD_USER = BuildUser("builder1", 30171, 30170, (30170,))

needs_slirp = pytest.mark.skipif(
    not (shutil.which("slirp4netns") and os.access(TUN, os.R_OK | os.W_OK)),
    reason="slirp4netns is not installed, or may not make network interfaces",
)

CONNECT = """
/usr/bin/python3 -I - <<'END' >$out
import socket, sys
try:
    with socket.socket(socket.{family}) as connection:
        connection.settimeout(5)
        connection.connect({address!r})
        sys.stdout.write(connection.makefile().read())
except OSError as error:
    print("no connection:", error, file=sys.stderr)
    sys.stdout.write("nothing")
END
"""


@contextmanager
def _server(family: int = socket.AF_INET, name: Any = ("127.0.0.1", 0)) -> Iterator[Any]:
    """Serve `TEXT` on the host; give the address."""
    listener = socket.socket(family)
    listener.bind(name)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(TEXT)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


async def _connector(
    yard: Yard, address: Any, *, finds: bytes = TEXT, fixed: bool = True, family: str = "AF_INET"
) -> StorePath:
    """Add a derivation that connects to an address, and makes what it finds there."""
    stated = ("sha256", sha256(finds).hexdigest()) if fixed else ("", "")
    script = CONNECT.format(address=address, family=family)
    return await yard.add_derivation(script, fixed=stated)


def _landlock_scopes() -> bool:
    """Tell whether the kernel can keep abstract sockets apart within one network."""
    ruleset = make_ruleset()
    if ruleset >= 0:
        os.close(ruleset)
    return ruleset >= 0


def _names_of_processes() -> list[str]:
    """Name the processes below this one, however deep."""
    names, parents = [], [os.getpid()]
    while parents:
        pid = parents.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            names.append(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue  # it has just ended
        parents += map(int, children)
    return names


@needs_slirp
@pytest.mark.parametrize("host", ["10.0.2.2", "127.0.0.1", "localhost"])
async def test_a_fixed_output_gets_to_the_loopback_of_the_host(open_yard: OpenYard, host: str):
    """A proxy on the host is at the address that its settings name."""
    async with open_yard() as yard:
        with _server() as (_, port):
            drv = await _connector(yard, (host, port))
            await yard.build(drv)
        assert Path(yard.output(drv)).read_bytes() == TEXT
        assert "slirp4netns" not in _names_of_processes()
    assert yard.leftovers() == []


@needs_slirp
@pytest.mark.root
async def test_a_build_user_has_a_network_too(open_yard: OpenYard, monkeypatch: pytest.MonkeyPatch):
    """Without a user namespace, it is root that makes the network."""
    monkeypatch.setattr(users, "members", lambda _group: [BUILD_USER])
    async with open_yard(build_users_group="builders") as yard:
        yard.base.chmod(0o755)
        with _server() as (_, port):
            drv = await _connector(yard, ("127.0.0.1", port))
            await yard.build(drv)
        assert Path(yard.output(drv)).read_bytes() == TEXT


@needs_slirp
@pytest.mark.parametrize("host", ["10.0.2.2", "127.0.0.1"])
async def test_the_loopback_of_the_host_can_be_kept_from_fixed_outputs(
    open_yard: OpenYard, host: str
):
    """Where the owner wants it, they get past the host only."""
    async with open_yard(host_loopback=False) as yard:
        with _server() as (_, port):
            drv = await _connector(yard, (host, port), finds=NOTHING)
            await yard.build(drv)


async def test_an_ordinary_build_has_no_network(yard: Yard):
    """Nothing of it leaves its own loopback interface, whatever fixed outputs may do."""
    with _server() as (_, port):
        for host in ("10.0.2.2", "127.0.0.1"):
            drv = await _connector(yard, (host, port), fixed=False)
            await yard.build(drv)
            assert Path(yard.output(drv)).read_bytes() == NOTHING


async def test_a_network_can_be_refused(open_yard: OpenYard):
    """Then a fixed output is like any other build."""
    async with open_yard(fixed_output_network=NetworkMode.NONE) as yard:
        with _server() as (_, port):
            await yard.build(await _connector(yard, ("127.0.0.1", port), finds=NOTHING))


async def test_without_slirp4netns_there_is_no_network_but_a_warning(open_yard: OpenYard):
    """The network of the host is never a substitute that nobody asked for."""
    async with open_yard(slirp4netns="no-such-program") as yard:
        with _server() as (_, port):
            await yard.build(await _connector(yard, ("127.0.0.1", port), finds=NOTHING))
        texts = [getattr(event, "text", "") for event in yard.told]
        assert any("network access disabled" in text for text in texts)


async def test_the_network_of_the_host_can_be_shared(open_yard: OpenYard):
    """Who asks for it gets it without anything being installed."""
    async with open_yard(fixed_output_network=NetworkMode.HOST) as yard:
        with _server() as (_, port):
            await yard.build(await _connector(yard, ("127.0.0.1", port)))


@needs_slirp
@pytest.mark.parametrize("mode", [NetworkMode.AUTO, NetworkMode.HOST])
async def test_abstract_sockets_of_the_host_are_out_of_reach(
    open_yard: OpenYard, mode: NetworkMode
):
    """Over one, a builder could hand its output to a process outside (CVE-2024-27297)."""
    if mode is NetworkMode.HOST and not _landlock_scopes():
        pytest.skip("in the network of the host, only Landlock of Linux 6.12 keeps them apart")
    name = f"\0storedaemon-test-{os.getpid()}"
    async with open_yard(fixed_output_network=mode) as yard:
        with _server(socket.AF_UNIX, name):
            drv = await _connector(yard, name, finds=NOTHING, family="AF_UNIX")
            await yard.build(drv)


@needs_slirp
async def test_what_carries_the_packets_is_confined(open_yard: OpenYard):
    """slirp4netns has no capability that matters, sees no file, and is ended with the build."""
    script = """
    /usr/bin/python3 -I - <<'END' >$out
import socket, sys
with socket.create_connection(("127.0.0.1", {port}), timeout=20) as connection:
    sys.stdout.write(connection.makefile().read())
END
    """
    seen: dict[str, str] = {}
    listener = socket.create_server(("127.0.0.1", 0))

    def look() -> None:
        connection, _ = listener.accept()
        with connection:
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    if (entry / "comm").read_text() == "slirp4netns\n":
                        seen["status"] = (entry / "status").read_text()
                        seen["root"] = " ".join(sorted(os.listdir(entry / "root")))
                        seen["etc"] = " ".join(sorted(os.listdir(entry / "root/etc")))
                except OSError:
                    continue  # it has just ended
            connection.sendall(TEXT)

    thread = threading.Thread(target=look)
    thread.start()
    async with open_yard() as yard:
        port = listener.getsockname()[1]
        fixed = ("sha256", sha256(TEXT).hexdigest())
        await yard.build(await yard.add_derivation(script.format(port=port), fixed=fixed))
    thread.join()
    listener.close()
    fields = dict(line.split(":\t", 1) for line in seen["status"].splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) & ~(1 << 10) == 0
    assert int(fields["CapBnd"], 16) & ~(1 << 10) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert seen["root"] == "etc run"
    assert set(seen["etc"].split()) <= {"ld.so.cache", "resolv.conf"}
