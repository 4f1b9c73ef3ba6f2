# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening sockets, opened and inherited, against the real kernel."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import StoreError
from storedaemon.addresses import TcpAddress, UnixAddress
from storedaemon.sockets import (
    Dialect,
    Listener,
    inherited_listeners,
    open_listeners,
    short_name,
)


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    """Collects listeners and closes them."""
    listeners: list[Listener] = []
    yield listeners
    for listener in listeners:
        listener.close()


def open_native(path: Path) -> Listener:
    """Open one native socket."""
    return open_listeners([], [UnixAddress(str(path))])[0]


def test_anyone_may_connect_who_reaches_the_directory(tmp_path: Path, opened: list[Listener]):
    """The socket file has mode 0666, and its directory is made."""
    path = tmp_path / "new" / "socket"
    opened.append(open_native(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_closing_removes_the_socket_file(tmp_path: Path):
    """Nothing is left where we listened."""
    open_native(tmp_path / "socket").close()
    assert os.listdir(tmp_path) == []


def test_closing_again_removes_nothing(tmp_path: Path):
    """A daemon that comes next may make its socket with the number of the file that is gone."""
    path, number = f"{tmp_path}/socket", f"{tmp_path}/same-number"
    (listener,) = open_listeners((UnixAddress(path),), ())
    os.link(path, number)
    listener.close()
    os.link(number, path)
    listener.close()
    assert os.path.exists(path)


def test_closing_leaves_a_file_that_somebody_else_put_there(tmp_path: Path):
    """Only the socket file that we made is ours to remove."""
    path = tmp_path / "socket"
    listener = open_native(path)
    path.unlink()
    path.write_text("theirs")
    listener.close()
    assert path.read_text() == "theirs"


def test_a_stale_socket_file_is_replaced(tmp_path: Path, opened: list[Listener]):
    """What a killed daemon left behind is in nobody's way."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    opened.append(open_native(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_daemon_keeps_its_socket(tmp_path: Path, opened: list[Listener]):
    """A second daemon is refused, and the first still reachable."""
    path = tmp_path / "socket"
    opened.append(open_native(path))
    with pytest.raises(StoreError, match="another daemon listens there") as caught:
        open_native(path)
    assert caught.value.reason == "address-in-use"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_daemons_socket_can_be_taken_over(tmp_path: Path, opened: list[Listener]):
    """New clients reach the new daemon; when the old one closes, the file stays."""
    path = str(tmp_path / "socket")
    (old,) = open_listeners([UnixAddress(path)], [])
    opened += open_listeners([UnixAddress(path)], [], take_over=True)
    old.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        opened[-1].socket.accept()[0].close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path):
    """A typing error in an address deletes nobody's file."""
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    with pytest.raises(StoreError, match="no socket"):
        open_native(path)
    assert path.read_text() == "years of work"


def test_long_directories_are_no_obstacle(tmp_path: Path, opened: list[Listener]):
    """A socket works below a path that sockaddr_un cannot hold."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    path = directory / "socket"
    opened.append(open_native(path))
    with socket.socket(socket.AF_UNIX) as client, short_name(str(path)) as name:
        client.connect(name)
    with pytest.raises(StoreError, match="File name too long"):
        open_native(directory / ("s" * 100))


def test_nothing_stays_open_when_one_address_fails(tmp_path: Path):
    """All addresses are opened or none."""
    before = os.listdir("/proc/self/fd")
    good, bad = UnixAddress(str(tmp_path / "good")), UnixAddress(str(tmp_path / "bad"))
    (tmp_path / "bad").write_text("")
    with pytest.raises(StoreError):
        open_listeners([good], [bad])
    assert os.listdir(tmp_path) == ["bad"]
    assert os.listdir("/proc/self/fd") == before


def test_tcp_sockets_serve_remote_clients(opened: list[Listener]):
    """A TCP listener is remote, and names the port it got."""
    opened.extend(open_listeners([TcpAddress("127.0.0.1", 0)], []))
    assert opened[0].is_remote
    host, port = opened[0].address.split(":")
    assert int(port) > 0
    with socket.create_connection((host, int(port))):
        pass


def test_an_unknown_host_is_named():
    """The error says which address, and why."""
    with pytest.raises(StoreError, match=r"cannot listen on 'no\.such\.host\.invalid:1'"):
        open_listeners([TcpAddress("no.such.host.invalid", 1)], [])


def test_inherited_names_decide_the_dialect(monkeypatch: pytest.MonkeyPatch):
    """A socket named native is native; all others are for Guix clients."""
    first = _place_listening_sockets(3)
    monkeypatch.setattr("storedaemon.sockets.FIRST_INHERITED_FD", first)
    listeners = inherited_listeners(
        {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "guix:native"}, 7
    )
    assert [listener.dialect for listener in listeners] == [
        Dialect.GUIX,
        Dialect.NATIVE,
        Dialect.GUIX,
    ]
    assert not any(os.get_inheritable(listener.socket.fileno()) for listener in listeners)
    for listener in listeners:
        listener.close()


def _place_listening_sockets(count: int) -> int:
    """Put listening sockets on consecutive inheritable descriptors, and name the first."""
    first = 200
    for number in range(first, first + count):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("")
            sock.listen()
            os.dup2(sock.fileno(), number)
    return first


@pytest.mark.parametrize(
    "environment",
    [{}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {"LISTEN_PID": "7", "LISTEN_FDS": "x"}],
)
def test_nothing_is_inherited_that_was_not_meant_for_us(environment: dict[str, str]):
    """The variables of another process are ignored."""
    assert inherited_listeners(environment, 7) == ()


def test_what_is_inherited_must_listen(monkeypatch: pytest.MonkeyPatch):
    """A descriptor that is no listening socket is an error that names it."""
    with socket.socket(socket.AF_UNIX) as sock:
        monkeypatch.setattr("storedaemon.sockets.FIRST_INHERITED_FD", sock.fileno())
        with pytest.raises(StoreError, match=f"inherited descriptor {sock.fileno()} is no listen"):
            inherited_listeners({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)


def test_what_is_inherited_must_be_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A plain file is refused too."""
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr("storedaemon.sockets.FIRST_INHERITED_FD", file.fileno())
        with pytest.raises(StoreError, match="is no socket"):
            inherited_listeners({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
