# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is remembered without a bound: each container that lives as long as the daemon is known.

Whoever adds one says here whether it is a cache, which `storedaemon stats` must list, or
holds what is under way, and so goes with it.
"""

import ast
import functools
import types
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import storedaemon
from storedaemon.operations.statistics import caches

from .test_operations import running

PACKAGES = ("storedaemon", "store", "builder", "locker", "reaper")

CACHES = {
    "DerivationCache._entries": {"derivations"},
    "_Remembered._entries": {"derivation-hashes-added", "derivation-hashes-substituted"},
    "Answers._entries": {"substitutes"},
    "Residents._idle": {"substitute-askers", "substitute-fetchers"},
    "Hooks._idle": {"build-hooks"},
    "ContentIndex._pending": {"contents-unwritten"},
    "LastUses._pending": {"last-uses-unwritten"},
    "Peers._known": {"users"},
    "UserDirectories._seen": {"profile-directories"},
}
FUNCTIONS = {
    "storedaemon.wire.guix.operations": {"guix-operations"},
    "storedaemon.wire.guix.client_hello": {"guix-hellos"},
    "storedaemon.wire.guix.operations_by_request": set[str](),  # of clients
}
ELSEWHERE = {"database-statements", "database-pages", "content-sources", "inspected-items"}
"""What SQLite has, what is on disk, and what single requests remember."""

# Requests, builds, helpers' questions and sessions that go on, and what these hold.
UNDER_WAY = {
    # Who had the slots when somebody had to wait for one last, among others.
    "Admission": {"_explained", "_running", "_sealing"},
    "Cleaner": {"_discarded"},
    "Connections": {"_idle"},  # as many as may be lent at once
    "ContentSources": {"_scanners"},
    "DetachedBuilds": {"_builds"},  # kept as long as the option says
    "Dispatcher": {"_lines"},
    # Written as they come; and names that are in the record, which is bounded.
    "History": {"_pending", "_writing", "_needed_quiet"},
    "InputLocks": {"_holds", "_over", "_tokens", "_users"},
    "Jobserver": {"_builds", "_starting"},
    "LockWatch": {"_jobs"},
    "LogFiles": {"_open", "_unsynced"},
    "Locker": {"_questions", "_requests"},
    "Meters": {"_meters", "_over"},
    "PathLocks": {"_awaited"},
    "ProcessMonitor": {"_running", "_unclaimed"},
    "Queries": {"_desks"},
    "Realiser": {"_asked"},
    "RequestMemory": {"_line", "_shares"},
    "Scheduler": {"_jobs", "_requests"},
    "Services": {"sessions"},
    "Slots": {"_held", "_shares", "_taken", "_urgent", "_waiters"},
    "Spawner": {"_desks"},
    "StoreWorkers": {"_background_waiters", "_idle", "_waiters", "_workers"},
    "TempRoots": {"_leaving", "_observers", "_users"},
    "Visits": {"_visits"},
    "Watchers": {"_subscriptions"},
}
# What was configured, and does not change.
CONSTANT = {"environment", "Codec._limits", "Peers._shares"}


def parts(thing: object) -> Iterator[tuple[str, object]]:
    """Yield what an object of ours, or a function that holds such, refers to, by name."""
    if isinstance(thing, types.MethodType):
        yield "", thing.__self__
    elif isinstance(thing, functools.partial):
        yield from (("", each) for each in (thing.func, *thing.args, *thing.keywords.values()))
    elif isinstance(thing, types.FunctionType):
        yield from (("", cell.cell_contents) for cell in thing.__closure__ or ())
    elif isinstance(thing, tuple | list):
        yield from (("", each) for each in thing)
    elif type(thing).__module__.partition(".")[0] in PACKAGES and not isinstance(thing, type):
        yield from attributes(thing)


def attributes(thing: object) -> Iterator[tuple[str, object]]:
    """Yield the attributes of an object, with or without slots."""
    names = set(getattr(thing, "__dict__", ()))
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names.update([slots] if isinstance(slots, str) else slots)
    for name in names - {"__weakref__", "__dict__"}:
        if hasattr(thing, name):
            yield name, getattr(thing, name)


def containers(root: object) -> set[str]:
    """Name all containers that can be reached and may grow, as ``Class.attribute``."""
    seen, found, stack = {id(root)}, set[str](), [root]
    while stack:
        thing = stack.pop()
        for name, part in parts(thing):
            if name and isinstance(part, dict | set | list | deque):
                found.add(f"{type(thing).__name__}.{name}")
            if id(part) not in seen:
                seen.add(id(part))
                stack.append(part)
    return found


def cached_functions() -> Iterator[str]:
    """Name the functions of which results are kept."""
    top = Path(storedaemon.__file__).parent.parent
    for file in (file for package in PACKAGES for file in (top / package).rglob("*.py")):
        module = ".".join(file.relative_to(top).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "cache" in ast.dump(d) for d in node.decorator_list
            ):
                yield f"{module}.{node.name}"


async def test_every_container_is_a_cache_in_the_statistics_or_holds_what_is_under_way(
    tmp_path: Path,
):
    """A new one is found by going through all that a daemon holds."""
    known = {f"{kind}.{name}" for kind, names in UNDER_WAY.items() for name in names}
    async with running(tmp_path) as services:
        found = containers(services)
        listed = {cache.name for cache in caches(services)}
    lasting = {name for name in found if not CONSTANT & {name, name.partition(".")[2]}}
    unknown = lasting - known - CACHES.keys()
    assert not unknown, f"cache or under way? name it above: {sorted(unknown)}"
    assert lasting >= CACHES.keys()
    assert listed == set().union(*CACHES.values(), *FUNCTIONS.values()) | ELSEWHERE


def test_functions_that_remember_are_known():
    """Those with a limit are counted by Python."""
    assert set(cached_functions()) == FUNCTIONS.keys()
