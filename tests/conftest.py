# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: the root marker, reproducible properties, and a check for leaks."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The same examples in each run, and no opinion about a busy machine.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")


# Fixtures that start helpers, containers or a daemon, which takes a good part of a second.
WHOLE = frozenset(
    {"start_daemon", "open_yard", "bench", "services", "victim", "workers", "helpers", "locker"}
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what works with whole parts of the daemon, for `make check` to leave out."""
    for item in items:
        if isinstance(item, pytest.Function) and not WHOLE.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.whole)


def pytest_collection_finish() -> None:
    """Spare collections of cycles, of which `no_leaks` makes two a test, what stays anyway."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `root` when it cannot run."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test if it leaves a file descriptor open or a child process unreaped."""
    gc.collect()
    descriptors, children = _descriptors(), _children()
    yield
    gc.collect()
    leaked = {fd: target for fd, target in _descriptors().items() if fd not in descriptors}
    left = _children() - children
    if leaked:
        pytest.fail(f"open descriptors were left: {leaked}")
    if left:
        pytest.fail(f"child processes were left: {sorted(left)}")


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            # The descriptor that listed the directory is closed by now.
            continue
    return found


def _children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in _children_of(task).split()}


def _children_of(task: Path) -> str:
    try:
        return (task / "children").read_text()
    except FileNotFoundError:
        # A thread that ended since; its children belong to another one now.
        return ""
