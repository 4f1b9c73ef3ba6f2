# SPDX-License-Identifier: GPL-3.0-or-later
"""The spawner: a small process that turns container descriptions into children of the daemon.

    client.py      the daemon's side: `Spawner`
    messages.py    what travels between both, imported by both
    main.py        the spawner's loop
    script.py      a description, translated into what is quick to execute
    room.py        namespaces made in advance, without anything of the host's
    ahead.py       what is made in them for the container that is likely to come
    clone.py       clone3: a child that is the daemon's
    child.py       what happens between namespaces and exec, step by step
    calls.py       the last steps, a list of system calls
    _launch.c      makes them, in a process that shares the spawner's memory until the exec
    root.py, mounts.py, shelf.py, identity.py, network.py, program.py, landlock.py
                   the steps
    bpf.py, seccomp.py
                   the filter of system calls
    kit.py         what is prepared once for all children
    syscalls.py    the kernel's names for what Python does not offer

It is started before the daemon has any thread, because a process with threads cannot
safely be forked, and stays small, because the price of a fork is the size of its memory.
Where it can, it does not fork at all; guests and containers in the host's network need it.
It needs Linux 5.12, for mount_setattr.
"""

DOUBLED = "doubled"
"""The argument with which the spawner becomes two processes once it has something to do."""
