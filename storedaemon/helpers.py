# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper processes: started before the daemon has a thread, all at once.

Each is a fresh interpreter that ends when its channel does, so none outlives
the daemon, however that ends. Entry point: `start_helpers`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from builder.spawner import DOUBLED
from locker.start import StartedHelper, start_helper

LOCKER = "locker"
SPAWNER = "builder.spawner"
WORKER = "store.worker"

# Hashing and scanning hardly go faster than the disk with more, and each costs its memory.
MOST_WORKERS = 16


@dataclass(frozen=True, slots=True)
class Helpers:
    """The helper processes of a daemon.

    Attributes:
        locker: Waits for file locks.
        spawner: Makes the containers of builds.
        workers: Hash, scan and delete store items.
    """

    locker: StartedHelper
    spawner: StartedHelper
    workers: tuple[StartedHelper, ...]

    def named(self) -> Iterator[tuple[str, StartedHelper]]:
        """Go through all of them with their names, for logs."""
        yield LOCKER, self.locker
        yield SPAWNER, self.spawner
        for worker in self.workers:
            yield WORKER, worker

    def close(self) -> None:
        """Close all channels, so that the helpers end; those closed already stay so."""
        for _, helper in self.named():
            helper.socket.close()


def start_helpers(workers: int) -> Helpers:
    """Start every helper, without waiting until they are up.

    Args:
        workers: How many store workers; 0 for one a CPU.

    Raises:
        OSError: A process cannot be made; those made before end by themselves.
    """
    count = workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    return Helpers(
        locker=start_helper(LOCKER),
        spawner=start_helper(SPAWNER, DOUBLED),
        workers=tuple(start_helper(WORKER) for _ in range(count)),
    )
