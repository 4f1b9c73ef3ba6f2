# SPDX-License-Identifier: GPL-3.0-or-later
"""What a builder cannot do, tried by a real program in a real container."""

import errno
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.container import Bind, Command

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]

PROBE = "/probe/probe"
X86 = os.uname().machine == "x86_64"


async def test_set_id_bits_cannot_be_set(bench: Any, container: Any, probe: Bind) -> None:
    """No call that takes a mode brings one onto a file; ordinary modes still work."""
    numbers = (await bench.run(container(PROBE, "modes", operations=(probe,)))).numbers
    allowed = {"plain-chmod", "sticky-chmod", "open-reading", "mkdir-set-id"}
    assert {name: number for name, number in numbers.items() if name in allowed} == dict.fromkeys(
        allowed, 0
    )
    assert numbers.pop("openat2") == errno.ENOSYS
    assert (numbers.pop("file-bits"), numbers.pop("directory-bits")) == (0, 0)
    refused = {name: number for name, number in numbers.items() if name not in allowed}
    assert len(refused) >= (10 if X86 else 6)
    assert set(refused.values()) == {errno.EPERM}


async def test_probe_can_set_them_without_the_filter(
    bench: Any, container: Any, probe: Bind
) -> None:
    """The same program succeeds where nothing forbids it, so that the test above can fail."""
    described = container(
        PROBE, "modes", "attributes", operations=(probe,), filter_system_calls=False
    )
    numbers = (await bench.run(described)).numbers
    assert numbers["fchmodat"] == numbers["openat"] == numbers["openat2"] == 0
    assert numbers["file-bits"] != 0
    assert numbers["setxattr"] == 0


async def test_extended_attributes_do_not_exist(bench: Any, container: Any, probe: Bind) -> None:
    """Setting, reading, listing and removing them, ACLs too, is not supported."""
    numbers = (await bench.run(container(PROBE, "attributes", operations=(probe,)))).numbers
    assert len(numbers) == 8
    assert set(numbers.values()) == {errno.EOPNOTSUPP}


async def test_io_uring_does_not_exist(bench: Any, container: Any, probe: Bind) -> None:
    """It could do all of that without a system call to filter."""
    numbers = (await bench.run(container(PROBE, "rings", operations=(probe,)))).numbers
    assert set(numbers.values()) == {errno.ENOSYS}


@pytest.mark.skipif(not X86, reason="the other ABIs of x86")
async def test_other_abis_are_filtered_too(bench: Any, container: Any, probe: Bind) -> None:
    """32-bit calls from a 64-bit program, and x32 ones, are no way around."""
    numbers = (await bench.run(container(PROBE, "abis", operations=(probe,)))).numbers
    assert numbers["i386-getpid"] == numbers["i386-plain-chmod"] == numbers["low-bits"] == 0
    for name in ("i386-chmod", "i386-fchmodat", "i386-open", "i386-openat", "x32-chmod"):
        assert numbers[name] == errno.EPERM, name
    assert numbers["i386-setxattr"] == numbers["x32-setxattr"] == errno.EOPNOTSUPP
    assert numbers["i386-io_uring_setup"] == numbers["i386-openat2"] == errno.ENOSYS


async def test_nothing_privileged_is_permitted(bench: Any, container: Any, probe: Bind) -> None:
    """Mounting, changing ids, making devices, naming the host, leaving the root."""
    numbers = (await bench.run(container(PROBE, "privileges", operations=(probe,)))).numbers
    assert numbers.pop("kill-1") == 0
    assert numbers.pop("kill-other") == errno.ESRCH
    assert set(numbers.values()) == {errno.EPERM}


async def test_abstract_sockets_of_the_host_are_out_of_reach(
    bench: Any, container: Any, probe: Bind
) -> None:
    """A builder cannot connect to one, neither in a container nor as a plain child."""
    name = f"storedaemon-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        inside = container(PROBE, f"abstract:{name}", operations=(probe,))
        assert (await bench.run(inside)).numbers == {"abstract": errno.ECONNREFUSED}
        command = Command(f"{probe.source}/probe".encode(), (b"probe", f"abstract:{name}".encode()))
        for directory in list(Path(probe.source).parents)[:-2]:
            directory.chmod(0o711)
        plain = replace(inside, command=command, operations=(), namespaces=())
        assert (await bench.run(plain)).numbers == {"abstract": errno.EPERM}


async def test_plain_children_cannot_signal_each_other(
    bench: Any, container: Any, probe: Bind
) -> None:
    """Two builders without containers and with one user are kept apart."""
    for directory in list(Path(probe.source).parents)[:-2]:
        directory.chmod(0o711)
    program = f"{probe.source}/probe"
    plain = replace(container(program, "sleep"), operations=(), namespaces=())
    first = await bench.start(replace(plain, command=replace(plain.command, directory="/")))
    second = container(program, "signal", str(first.process.pid), operations=(), namespaces=())
    outcome = await bench.run(replace(second, operations=()))
    assert outcome.numbers == {"signal": errno.EPERM}
    first.process.kill()
    assert (await first.process.wait()).signal == signal.SIGKILL


async def test_own_user_namespaces_give_no_way_out(bench: Any, shell: Any) -> None:
    """A builder may make namespaces of its own, in which read-only mounts stay so."""
    script = (
        "unshare -Urm sh -c 'mount -o remount,rw /usr || umount /usr || echo refused' 2>/dev/null"
    )
    outcome = await bench.run(shell(script))
    assert outcome.lines == ["refused"]
