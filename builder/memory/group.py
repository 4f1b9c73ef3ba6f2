# SPDX-License-Identifier: GPL-3.0-or-later
"""One memory cgroup: what its processes have, may have, and lost for having too much.

What is only cached of files counts as free, since the kernel takes it back when it
is short. Entry points: `Group`, `room_below`.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from builder.kernel_files import Read, entry, read_optional, read_text, write_text

_MAX_ROUNDS = 64
_UNLIMITED = 1 << 60
_PROCS = "cgroup.procs"


@dataclass(frozen=True, slots=True)
class Names:
    """What files and entries are called in one version of the interface.

    Attributes:
        usage: The file of bytes charged, caches included.
        limit: The file of bytes allowed.
        events: The file that counts what the kernel ended.
        cached: The entries of ``memory.stat`` that can be taken back.
    """

    usage: str
    limit: str
    events: str
    cached: tuple[str, ...]


NAMES: Mapping[int, Names] = {
    1: Names(
        "memory.usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.oom_control",
        ("total_active_file", "total_inactive_file"),
    ),
    2: Names("memory.current", "memory.max", "memory.events", ("active_file", "inactive_file")),
}


class Group:
    """A cgroup for one build; its methods are for threads, since each may wait for the kernel.

    Args:
        directory: The cgroup's, which is there.
        version: Of the interface.
    """

    def __init__(self, directory: str, version: int) -> None:
        self.directory = directory
        self._version = version
        self._brought: dict[int, int] = {}

    def limit(self, size: int) -> None:
        """Let its processes have no more than so many bytes together.

        Raises:
            OSError: The kernel does not.
        """
        write_text(f"{self.directory}/{NAMES[self._version].limit}", str(size))
        if self._version == 2:
            # A builder that has lost one of its processes would only fail in a stranger way.
            write_text(f"{self.directory}/memory.oom.group", "1")

    def adopt(self, pid: int) -> None:
        """Move a process and all that come from it, and what these make meanwhile.

        What they have already stays charged to where they come from, so that is noted.

        Raises:
            OSError: The kernel does not.
        """
        for _ in range(_MAX_ROUNDS):
            new = descendants(pid) - self._members()
            if not new:
                return
            for each in new:
                had = anonymous_memory(each)
                # It may have ended.
                with suppress(ProcessLookupError):
                    write_text(f"{self.directory}/{_PROCS}", str(each))
                    self._brought[each] = had

    def demand(self) -> int:
        """Return how many bytes its processes have.

        Raises:
            OSError: It cannot be read.
        """
        brought = sum(min(had, anonymous_memory(pid)) for pid, had in self._brought.items())
        return _demand(self.directory, NAMES[self._version], read_text) + brought

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has ended for want of memory."""
        text = read_optional(f"{self.directory}/{NAMES[self._version].events}", read_text)
        return entry(text, "oom_kill")

    def remove(self) -> bool:
        """Remove it, or tell False as long as it has processes."""
        try:
            os.rmdir(self.directory)
        except FileNotFoundError:
            return True
        except OSError:
            # EBUSY: processes that ended stay until the kernel is through with them.
            return False
        return True

    def _members(self) -> set[int]:
        return set(map(int, read_text(f"{self.directory}/{_PROCS}").split()))


def room_below(directories: Iterable[str], version: int, read: Read) -> int | None:
    """Return how many bytes the limits of nested cgroups still allow; None without limits."""
    names, least = NAMES[version], None
    for directory in directories:
        allowed = read_optional(f"{directory}/{names.limit}", read).strip()
        if not allowed.isdigit() or int(allowed) >= _UNLIMITED:
            continue
        with suppress(OSError):
            room = max(int(allowed) - _demand(directory, names, read), 0)
            least = room if least is None else min(least, room)
    return least


def descendants(pid: int, proc: str = "/proc") -> set[int]:
    """Return a process and those that come from it, as far as their parents live."""
    found, queue = set[int](), [pid]
    while queue:
        each = queue.pop()
        if each not in found:
            found.add(each)
            queue.extend(_children(f"{proc}/{each}/task"))
    return found


def _children(tasks: str) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(tasks):
            found.extend(map(int, read_optional(f"{tasks}/{task}/children", read_text).split()))
    return found


def anonymous_memory(pid: int, proc: str = "/proc") -> int:
    """Return the bytes of a process that are no file's; 0 once it has ended."""
    fields = read_optional(f"{proc}/{pid}/statm", read_text).split()
    if len(fields) < 3:
        return 0
    return max(int(fields[1]) - int(fields[2]), 0) * os.sysconf("SC_PAGE_SIZE")


def _demand(directory: str, names: Names, read: Read) -> int:
    usage = int(read(f"{directory}/{names.usage}"))
    status = read(f"{directory}/memory.stat")
    return max(usage - sum(entry(status, name) for name in names.cached), 0)
