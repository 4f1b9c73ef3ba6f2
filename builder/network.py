# SPDX-License-Identifier: GPL-3.0-or-later
"""What network the builders of fixed outputs get, whose content is known beforehand.

Every builder is in a network namespace of its own, unless the owner wants otherwise:
abstract sockets belong to a network, and through one a builder could hand a descriptor of
its output to a process outside (CVE-2024-27297). slirp4netns carries the namespace's
packets to the world by ordinary sockets of its own.

Entry points: `choose` and `files`, both pure; `survey` looks at the machine.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from builder.operations import Bind, File, Operation

TUN = "/dev/net/tun"
HOST_ADDRESS, HOST_ADDRESS_6 = b"10.0.2.2", b"fd00::2"
"""Where a builder finds the loopback addresses of the host."""

RESOLV_CONF = b"nameserver 10.0.2.3\n"
"""Names are asked of slirp4netns, which asks whom the host would ask."""

HOSTS = b"127.0.0.1 localhost\n::1 localhost\n"
"""What names mean in a container without a network."""

_PLAIN_FILES = ("/etc/services", "/etc/nsswitch.conf")
_NAME_FILES = ("/etc/hosts", "/etc/resolv.conf")
_MAX_FILE = 1 << 20


class NetworkMode(StrEnum):
    """What the owner wants for fixed outputs."""

    AUTO = "auto"
    SLIRP4NETNS = "slirp4netns"
    HOST = "host"
    NONE = "none"


class Reach(StrEnum):
    """How far a builder gets."""

    NOWHERE = "nowhere"
    HOST = "host"
    UPLINK = "uplink"


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is on the machine.

    Attributes:
        slirp4netns: Where that program is; empty where it is not.
        tun: Whether network interfaces can be made.
        ipv6: Whether the host itself reaches the internet by IPv6.
        hosts: The text of ``/etc/hosts``, None where there is none.
        resolv_conf: Likewise of ``/etc/resolv.conf``.
    """

    slirp4netns: str
    tun: bool
    ipv6: bool
    hosts: bytes | None
    resolv_conf: bytes | None


@dataclass(frozen=True, slots=True)
class Network:
    """What network a build gets.

    Attributes:
        reach: How far it gets.
        warning: What its owner should know, if anything.
        survey: The machine; None where nothing of it matters.
        host_loopback: With an uplink, whether it gets to services on the host's loopback.
    """

    reach: Reach = Reach.NOWHERE
    warning: str = ""
    survey: Survey | None = None
    host_loopback: bool = False


NO_NETWORK = Network()


def choose(mode: NetworkMode, survey: Survey, *, host_loopback: bool) -> Network:
    """Decide on the network of a fixed output."""
    if mode is NetworkMode.NONE:
        return NO_NETWORK
    if mode is NetworkMode.HOST:
        return Network(Reach.HOST, survey=survey)
    if not survey.slirp4netns:
        return Network(warning="`slirp4netns' can't be found in PATH, network access disabled")
    if not survey.tun:
        return Network(warning=f"`{TUN}' is missing, network access disabled")
    return Network(Reach.UPLINK, survey=survey, host_loopback=host_loopback)


def files(network: Network) -> Iterator[Operation]:
    """Give the files of a fixed output's container that tell of its network."""
    yield from (Bind(path, path, optional=True) for path in _PLAIN_FILES)
    if network.reach is not Reach.UPLINK:
        yield from (Bind(path, path, optional=True) for path in _NAME_FILES)
        return
    assert network.survey is not None, "an uplink is made of what there is"
    yield File("/etc/resolv.conf", RESOLV_CONF, 0o644)
    hosts = network.survey.hosts or HOSTS
    yield File("/etc/hosts", _with_host(hosts) if network.host_loopback else hosts, 0o644)


def _with_host(hosts: bytes) -> bytes:
    """Have the host's own names mean the host."""
    hosts = re.sub(rb"(?m)^(\s*)127\.0\.0\.1(?=\s)", rb"\g<1>" + HOST_ADDRESS, hosts)
    return re.sub(rb"(?m)^(\s*)::1(?=\s)", rb"\g<1>" + HOST_ADDRESS_6, hosts)


def survey(program: str, path: str | None) -> Survey:
    """Look at the machine.

    Args:
        program: The name of slirp4netns, to be looked for on `path`, or its absolute path.
        path: The directories of programs, as in ``PATH``.
    """
    return Survey(
        slirp4netns=shutil.which(program, path=path) or "",
        tun=os.path.exists(TUN),
        ipv6=_has_global_address(_read("/proc/net/if_inet6") or b""),
        hosts=_read("/etc/hosts"),
        resolv_conf=_read("/etc/resolv.conf"),
    )


def _has_global_address(table: bytes) -> bool:
    """Tell whether an address in the kernel's table is good beyond its link."""
    scopes = (fields[3] for fields in map(bytes.split, table.splitlines()) if len(fields) > 3)
    return any(scope in (b"00", b"40") for scope in scopes)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return None  # it is absent, or nobody may read it: then builders do without as well
