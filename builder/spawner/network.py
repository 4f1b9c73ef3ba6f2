# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a container: its loopback interface, brought up or done without.

The netlink message comes from pyroute2. Importing that takes 0.15 s and 25 MB, which
every later fork would pay for, so a forked process of the spawner imports it, encodes
the message and ends; a container only sends those bytes.

Entry points: `LoopbackMessage` in the spawner, `bring_up` or `route_loopback` in a container.
"""

import fcntl
import os
import signal
import socket
import struct
import sys

import prctl

_LOOPBACK_INDEX = 1  # the first interface of every new network namespace
_NLMSG_ERROR = 2
_SIOCSIFFLAGS, _SIOCSIFADDR = 0x8914, 0x8916
_AF_INET = int(socket.AF_INET)
_ACKNOWLEDGEMENT = struct.Struct("=IHHIIi")  # struct nlmsghdr, then the error number


def encode_loopback_up() -> bytes:
    """Encode the request RTM_NEWLINK that sets IFF_UP on the loopback interface."""
    from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST  # noqa: PLC0415 - see the module
    from pyroute2.netlink.rtnl import RTM_NEWLINK  # noqa: PLC0415 - see the module
    from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg  # noqa: PLC0415 - see the module

    message = ifinfmsg()
    message["index"] = _LOOPBACK_INDEX
    message["flags"] = message["change"] = IFF_UP
    message["header"]["type"] = RTM_NEWLINK
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
    message.encode()
    return bytes(message.data)


class LoopbackMessage:
    """The bytes of `encode_loopback_up`, from a process that was started to encode them."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._data = b""
        self._pid = os.fork()
        if self._pid == 0:
            # A spawner that ends at once leaves nothing behind.
            prctl.set_pdeathsig(signal.SIGKILL)
            _encode_and_exit(writer)
        os.close(writer)

    def get(self) -> bytes:
        """Give the message; the first call may have to wait for it.

        Raises:
            RuntimeError: The process failed; its traceback is on standard error.
        """
        if self._reader >= 0:
            self._data = os.read(self._reader, 4096)
            self._end()
        if not self._data:
            raise RuntimeError("pyroute2 could not encode the request to bring up loopback")
        return self._data

    def close(self) -> None:
        """End the process if nobody wanted the message; the daemon's monitor is not to reap it."""
        if self._reader >= 0:
            os.kill(self._pid, signal.SIGKILL)
            self._end()

    def _end(self) -> None:
        os.close(self._reader)
        self._reader = -1
        os.waitpid(self._pid, 0)


def _encode_and_exit(writer: int) -> None:
    try:
        os.write(writer, encode_loopback_up())
        os._exit(0)
    except Exception as error:  # noqa: BLE001 - whatever it is, this process must not go on
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(1)


def bring_up(message: bytes) -> None:
    """Send the request in the network namespace of this process.

    Raises:
        OSError: The kernel refused it.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.sendto(message, (0, 0))
        answer = netlink.recv(4096)
    _, kind, _, _, _, code = _ACKNOWLEDGEMENT.unpack_from(answer)
    if kind != _NLMSG_ERROR or code:
        raise OSError(-code, os.strerror(-code))


def route_loopback(proc: int) -> None:
    """Let packets for 127.0.0.1 leave by another interface, and their answers come in.

    slirp4netns has brought up the loopback interface together with its own. Without its
    address, which outlasts that it is taken down, 127.0.0.1 is like any other.

    Args:
        proc: A descriptor of a ``/proc``, whose ``sys/net`` shows the reader's own network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFADDR, struct.pack("=16sHHI16x", b"lo", _AF_INET, 0, 0))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("=16sH22x", b"lo", 0))
    path = b"sys/net/ipv4/conf/all/route_localnet"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)
