# SPDX-License-Identifier: GPL-3.0-or-later
"""What the measures share: both daemons, how to add things to them, and how long to go on."""

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from store.paths import StorePath, name_of
from tests.benchmarks.content import BUILDER_NAME, Recipe, Recipes
from tests.benchmarks.driver import Driver
from tests.benchmarks.figures import Series
from tests.benchmarks.rounds import Contestant, take_turns


class Side:
    """One daemon: its client, and the recipes for its store.

    Args:
        driver: The client.
        program: The builder's file, which is added.
    """

    def __init__(self, driver: Driver, program: Path) -> None:
        self.driver = driver
        self.builder = driver.add_file(BUILDER_NAME, program.read_bytes(), executable=True)
        self.recipes = Recipes(driver.store, StorePath(self.builder))

    def add(self, recipes: Iterable[Recipe]) -> None:
        """Add derivations, inputs first."""
        for recipe in recipes:
            references = sorted(recipe.derivation.references)
            path = self.driver.add_text(name_of(recipe.path), recipe.text, references)
            assert path == recipe.path

    def build(self, wanted: Iterable[Recipe]) -> tuple[float, bytes]:
        """Build derivations; tell how long that took, and what the builders wrote."""
        paths = [recipe.path for recipe in wanted]
        started = time.perf_counter()
        output = self.driver.build(paths)
        return time.perf_counter() - started, output


@dataclass(frozen=True, slots=True)
class Lab:
    """What a measure works with.

    Attributes:
        ours: Our daemon.
        peer: The other one, if there is one.
        scratch: A directory to write in.
        program: The builder's file.
        cpus: The CPUs that may be used.
        quick: Whether to be content with a rough idea.
    """

    ours: Side
    peer: Side | None
    scratch: Path
    program: Path
    cpus: list[int]
    quick: bool

    @property
    def rounds(self) -> int:
        """How many rounds to take turns for."""
        return 3 if self.quick else 7

    @property
    def pids(self) -> list[int]:
        """The daemons' processes."""
        return [side.driver.pid for side in (self.ours, self.peer) if side is not None]

    def scaled(self, full: int, quick: int) -> int:
        """Choose an amount of work."""
        return quick if self.quick else full

    def contest(
        self,
        contestant: Callable[[Side], Contestant],
        floor: Contestant | None = None,
        rounds: int | None = None,
    ) -> Series:
        """Have both daemons, and the bare system if it can, do the same in turns."""
        return take_turns(
            rounds or self.rounds,
            contestant(self.ours),
            floor=floor,
            peer=contestant(self.peer) if self.peer else None,
        )


def empty(path: str) -> None:
    """Take the content of a store's file away, before the kernel writes it to the disk.

    What waits to be written would otherwise slow down whoever is measured next. Nobody
    looks at the file again.
    """
    if not os.access(path, os.W_OK):
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IWUSR)
    os.truncate(path, 0)
