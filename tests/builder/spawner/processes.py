# SPDX-License-Identifier: GPL-3.0-or-later
"""Which spawners there are."""

import os


def spawners() -> set[int]:
    """Return the children of this process that are spawners."""
    found = set()
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                _, _, rest = file.read().partition("(")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, numbers = rest.rpartition(") ")
        if name == "spawner" and int(numbers.split()[1]) == os.getpid():
            found.add(pid)
    return found
