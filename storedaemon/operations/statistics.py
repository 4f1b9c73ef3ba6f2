# SPDX-License-Identifier: GPL-3.0-or-later
"""How the daemon's parts and caches do."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict

import trio

from store.tally import CacheStatistics, of_function
from storedaemon.services import Services
from storedaemon.session import Session
from storedaemon.wire import guix
from storedaemon.wire.native.statistics import Statistics

_KIB = 1024


async def statistics(services: Services, _session: Session) -> Statistics:
    """Return all that the daemon counts."""
    writer = {
        name: value
        for name, value in asdict(services.database.statistics()).items()
        if isinstance(value, int)
    }
    jobserver = services.building.jobserver
    database, index = services.layout.database_file, services.layout.index_file
    groups: dict[str, dict[str, int | float]] = {
        "process": await trio.to_thread.run_sync(_process),
        "sessions": {"connected": len(services.sessions)},
        "requests": asdict(services.request_memory.statistics()),
        "slots": asdict(services.building.slots.statistics()),
        **({"jobserver": asdict(jobserver.statistics())} if jobserver else {}),
        "children": asdict(services.monitor.statistics()),
        "locker": {
            **asdict(services.locker.statistics()),
            "inputs": services.building.input_locks.count,
        },
        "spawner": asdict(services.spawner.statistics()),
        "workers": asdict(services.workers.statistics()),
        "database": {
            "size": _size(database),
            "log-size": _size(f"{database}-wal"),
            "index-size": _size(index),
            **writer,
        },
        "temporary-roots": {"held": len(services.temp_roots.live())},
    }
    return Statistics(groups, tuple(caches(services)))


def caches(services: Services) -> Iterator[CacheStatistics]:
    """Yield how each cache of the daemon does."""
    yield services.building.derivations.statistics()
    yield services.writer.derivation_hashes()
    yield from services.building.substituting.caches()
    yield services.building.hooks.statistics()
    yield services.building.inspections.statistics()
    yield services.content_index.statistics()
    yield services.content_sources.statistics()
    yield services.last_uses.statistics()
    yield services.peers.statistics()
    yield services.homes.statistics()
    yield from services.database.caches()
    yield of_function("guix-operations", guix.operations)
    yield of_function("guix-hellos", guix.client_hello)


def _process() -> dict[str, int | float]:
    """Tell of this process: bytes of memory, seconds since its start, descriptors."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        # The name may hold blanks and parentheses; what follows the last is counted from 3.
        began = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return {
        "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 3),
        "rss": _kib(status.get("VmRSS", "0")),
        "anonymous": _kib(status.get("RssAnon", "0")),
        "threads": int(status.get("Threads", "1")),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
    }


def _kib(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * _KIB


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except FileNotFoundError:
        # A log is there only as long as it is used.
        return 0
