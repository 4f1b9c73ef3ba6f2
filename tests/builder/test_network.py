# SPDX-License-Identifier: GPL-3.0-or-later
"""What network fixed outputs get, and what tells them of it."""

from dataclasses import replace

import pytest

from builder.container import ALL_NAMESPACES, File, Namespace, UplinkIdentity
from builder.network import Network, NetworkMode, Reach, Survey, choose, files, survey
from builder.uplink import uplink_container

HOSTS = b"127.0.0.1\tlocalhost me\n::1 localhost\n# 127.0.0.1 x\n127.0.0.11 other\n10.1.1.1 far\n"
FULL = Survey("/usr/bin/slirp4netns", True, False, HOSTS, b"nameserver 127.0.0.53\n")


def _texts(network: Network) -> dict[str, bytes]:
    return {each.target: each.contents for each in files(network) if isinstance(each, File)}


@pytest.mark.parametrize(
    ("mode", "found", "reach", "warns"),
    [
        (NetworkMode.AUTO, FULL, Reach.UPLINK, False),
        (NetworkMode.SLIRP4NETNS, FULL, Reach.UPLINK, False),
        (NetworkMode.AUTO, replace(FULL, slirp4netns=""), Reach.NOWHERE, True),
        (NetworkMode.AUTO, replace(FULL, tun=False), Reach.NOWHERE, True),
        (NetworkMode.HOST, replace(FULL, slirp4netns=""), Reach.HOST, False),
        (NetworkMode.NONE, FULL, Reach.NOWHERE, False),
    ],
)
def test_the_network_of_the_host_is_shared_only_on_demand(
    mode: NetworkMode, found: Survey, reach: Reach, *, warns: bool
):
    """What is missing means no network, and a word about it."""
    network = choose(mode, found, host_loopback=True)
    assert network.reach is reach
    assert bool(network.warning) is warns


def test_names_of_the_host_lead_to_it():
    """With its loopback interface within reach, and only those that mean it."""
    network = choose(NetworkMode.AUTO, FULL, host_loopback=True)
    assert _texts(network) == {
        "/etc/resolv.conf": b"nameserver 10.0.2.3\n",
        "/etc/hosts": b"10.0.2.2\tlocalhost me\nfd00::2 localhost\n# 127.0.0.1 x\n"
        b"127.0.0.11 other\n10.1.1.1 far\n",
    }


def test_without_the_hosts_loopback_names_stay():
    """They mean the builder itself."""
    network = choose(NetworkMode.AUTO, FULL, host_loopback=False)
    assert _texts(network)["/etc/hosts"] == HOSTS


def test_what_brings_a_network_is_in_the_hosts():
    """And in nothing else of the host's; only its program can be seen."""
    network = choose(NetworkMode.AUTO, replace(FULL, ipv6=True), host_loopback=False)
    container = uplink_container(network, 4711, "/s")
    assert set(container.namespaces) == set(ALL_NAMESPACES) - {Namespace.NETWORK}
    assert container.identity == UplinkIdentity(4711)
    arguments = container.command.arguments
    for option in (b"--enable-sandbox", b"--disable-host-loopback", b"--enable-ipv6"):
        assert option in arguments
    targets = {operation.target for operation in container.operations}
    assert "/home" not in targets
    assert {"/proc", "/dev/net/tun", "/etc/resolv.conf"} <= targets


def test_a_program_that_is_not_there_is_not_found():
    """Nor one that is named by a file that does not exist."""
    assert survey("no-such-program", None).slirp4netns == ""
    assert survey("/no/such/program", None).slirp4netns == ""
    assert survey("sh", "/bin").slirp4netns == "/bin/sh"
