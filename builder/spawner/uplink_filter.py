# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of system calls that slirp4netns runs under.

It reads what a builder sends, so it may fall into a builder's hands; and it must be in the
host's network, where abstract sockets have no other protection than who asks. So it can
make sockets of the internet only, and has no way to other processes: without privileges
it shares the daemon's user and the host's process numbers.

Entry point: `uplink_filter_for`.
"""

from builder.spawner.bpf import assemble
from builder.spawner.seccomp import Abi, Rule, program

_COMMON = dict.fromkeys((424, 425, 426, 427, 434, 438), Rule.DENIED)
"""pidfd_send_signal, io_uring_*, pidfd_open and pidfd_getfd, the same on all machines."""


def _table(socket: int, socketpair: int, *denied: int) -> dict[int, Rule]:
    pairs = {socket: Rule.INTERNET, socketpair: Rule.PAIR}
    return {**dict.fromkeys(denied, Rule.DENIED), **pairs, **_COMMON}


# Denied are kill, tkill, ptrace, process_vm_readv and process_vm_writev.
_X86_64 = Abi(0xC000003E, 0xBFFFFFFF, _table(41, 53, 62, 200, 101, 310, 311))
_GENERIC = _table(198, 199, 129, 130, 117, 270, 271)
_AARCH64 = Abi(0xC00000B7, 0xFFFFFFFF, _GENERIC)
_RISCV64 = Abi(0xC00000F3, 0xFFFFFFFF, _GENERIC)

_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64, "riscv64": _RISCV64}


def uplink_filter_for(machine: str) -> bytes:
    """Assemble the filter for a machine, as uname(2) names it.

    Raises:
        ValueError: No table for this machine is known. That of i686 is left out: there, one
            system call stands for all of sockets, and no filter sees which one is meant.
    """
    abi = _MACHINES.get(machine)
    if abi is None:
        raise ValueError(f"no filter of system calls for slirp4netns is known for `{machine}'")
    return assemble(list(program((abi,))))
