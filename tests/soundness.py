# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of a daemon and its store after whatever was done to them.

Everything here looks from outside: at `/proc`, at the database with the standard
library's SQLite, and at the files, which are hashed by a writer of archives that
shares no code with the daemon's.
"""

import hashlib
import os
import re
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.storedaemon.conftest import RunningDaemon

SETTLE_SECONDS = 20
UNFINISHED = (".lock", ".chroot", ".tmp")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a daemon holds.

    Attributes:
        descriptors: Of the daemon's own process: what they refer to, and how often.
        processes: The names of all it started that are there, and how often.
        resident: KiB of the daemon's own process.
    """

    descriptors: Counter[str]
    processes: Counter[str]
    resident: int

    def grown_since(self, before: "Footprint") -> list[str]:
        """Tell what there is more of than before, except memory.

        SQLite closes a file of which another connection has a lock only later, or uses
        it again, so how often its files are open says nothing.
        """
        more = (self.descriptors - before.descriptors) + (self.processes - before.processes)
        return sorted(each for each in more.elements() if "/db/" not in each)

    def missing_since(self, before: "Footprint") -> list[str]:
        """Tell which processes have ended."""
        return sorted((before.processes - self.processes).elements())


def footprint(daemon: RunningDaemon) -> Footprint:
    """Look at what a daemon holds."""
    return Footprint(
        Counter(_descriptors(daemon.pid)),
        Counter(filter(None, map(_name, daemon.descendants()))),
        _resident(daemon.pid),
    )


def _descriptors(pid: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue  # closed meanwhile
        found.append(re.sub(r"\[\d+\]", "", target))
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # ended meanwhile


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def wait_for_nothing(look: Callable[[], list[str]], seconds: float = SETTLE_SECONDS) -> list[str]:
    """Look again until there is nothing to be seen; give what there is still at last."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def leaks(daemon: RunningDaemon, before: Footprint) -> list[str]:
    """Tell which descriptors and processes have become more, and which helpers are gone."""

    def look() -> list[str]:
        now = footprint(daemon)
        gone = [f"{name} has ended" for name in now.missing_since(before)]
        return now.grown_since(before) + gone

    return wait_for_nothing(look)


def leftovers(daemon: RunningDaemon, builds: Path | None = None) -> list[str]:
    """Tell what lies about that no finished work may leave."""

    def look() -> list[str]:
        found = [str(path) for path in (builds.iterdir() if builds else ())]
        valid = valid_names(daemon)
        for entry in os.scandir(daemon.store):
            if entry.name.startswith(".incoming-"):
                found += [f"{entry.path}/{name}" for name in os.listdir(entry.path)]
            elif entry.name not in valid and entry.name != ".links":
                found.append(entry.path)
        return found

    return wait_for_nothing(look)


def valid_names(daemon: RunningDaemon) -> set[str]:
    """Give the names of the items that the database holds."""
    with closing(_database(daemon)) as database:
        rows = database.execute("select path from ValidPaths").fetchall()
    return {os.path.basename(path) for (path,) in rows}


def unsound_items(daemon: RunningDaemon) -> list[str]:
    """Tell which registered items are not on disk as they were registered."""
    with closing(_database(daemon)) as database:
        rows = database.execute("select path, hash, narSize from ValidPaths").fetchall()
        dangling = database.execute(
            "select referrer from Refs where reference not in (select id from ValidPaths)"
        ).fetchall()
    found = [f"item {number} refers to what is not valid" for (number,) in dangling]
    for path, known, size in rows:
        archive = NarDigest()
        archive.add(path)
        if (f"sha256:{archive.hash.hexdigest()}", archive.size) != (known, size):
            found.append(f"{path} is not what is registered")
        found += [f"{name} has mode or time of its own" for name in archive.unclean]
    return found


def _database(daemon: RunningDaemon) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{daemon.state}/db/db.sqlite?mode=ro", uri=True, timeout=30)


class NarDigest:
    """The hash of a file's archive, and what is not canonical about the file."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size = 0
        self.unclean: list[str] = []
        self._words(b"nix-archive-1")

    def add(self, path: str) -> None:
        """Write a node."""
        status = os.lstat(path)
        self._check(path, status)
        self._words(b"(", b"type")
        if stat.S_ISLNK(status.st_mode):
            self._words(b"symlink", b"target", os.fsencode(os.readlink(path)))
        elif stat.S_ISREG(status.st_mode):
            self._words(b"regular", *((b"executable", b"") if status.st_mode & 0o100 else ()))
            self._words(b"contents", Path(path).read_bytes())
        else:
            self._words(b"directory")
            for name in sorted(os.listdir(os.fsencode(path))):
                self._words(b"entry", b"(", b"name", name, b"node")
                self.add(f"{path}/{os.fsdecode(name)}")
                self._words(b")")
        self._words(b")")

    def _words(self, *words: bytes) -> None:
        for word in words:
            data = len(word).to_bytes(8, "little") + word + bytes(-len(word) % 8)
            self.hash.update(data)
            self.size += len(data)

    def _check(self, path: str, status: os.stat_result) -> None:
        modes = (0o444, 0o555, 0o777) if stat.S_ISLNK(status.st_mode) else (0o444, 0o555)
        if status.st_mtime != 1 or stat.S_IMODE(status.st_mode) not in modes:
            self.unclean.append(path)
