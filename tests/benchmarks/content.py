# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemons are given: archives, a builder that needs nothing, and derivations."""

import random
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from store.derivations import (
    Derivation,
    Output,
    fill_output_paths,
    hash_derivation_modulo,
    unparse_derivation,
)
from store.nar import writer
from store.nar.events import Content, Directory, DirectoryEnd, NarEvent, Regular
from store.paths import StoreDirectory, StorePath

SYSTEM = "x86_64-linux"

BUILDER_NAME = "bench-builder"

BUILDER_SOURCE = Path(__file__).with_name("bench_builder.c")

MIB = 1024 * 1024

PIECE = 256 * 1024
"""Bytes in one write of a client that streams."""


def compile_builder(directory: Path, source: Path = BUILDER_SOURCE) -> Path:
    """Compile a static program, which runs where there is no other file.

    Raises:
        RuntimeError: The compiler is missing, or does not like it.
    """
    program = directory / source.stem
    command = ["gcc", "-O2", "-static", "-o", str(program), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError("gcc is needed to compile the builder") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"gcc failed: {error.stderr}") from error
    return program


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Make bytes that nothing compresses, the same ones for the same seed."""
    numbers = random.Random(seed)
    return b"".join(numbers.randbytes(min(MIB, size - at)) for at in range(0, size, MIB))


def file_archive(
    data: bytes | bytearray, *, executable: bool = False
) -> Iterator[bytes | memoryview]:
    """Give the archive of one file in pieces, without copying the data."""
    return writer.write(_file(b"", data, executable=executable))


def tree_archive(files: int, seed: int = 1) -> bytes:
    """Make the archive of a source tree: directories of a hundred files of one to four KiB."""
    return b"".join(writer.write(_tree(files, random.Random(seed))))


def _file(name: bytes, data: bytes | bytearray, *, executable: bool = False) -> Iterator[NarEvent]:
    yield Regular(name, executable, len(data))
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        yield Content(view[start : start + PIECE])


def _tree(files: int, numbers: random.Random) -> Iterator[NarEvent]:
    yield Directory(b"")
    for first in range(0, files, 100):
        yield Directory(b"d%06d" % first)
        for number in range(first, min(files, first + 100)):
            yield from _file(b"f%06d" % number, numbers.randbytes(numbers.randint(1024, 4096)))
        yield DirectoryEnd()
    yield DirectoryEnd()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A derivation, ready to be added.

    Attributes:
        path: Where it will be.
        derivation: What it says.
        text: Its file form.
    """

    path: StorePath
    derivation: Derivation
    text: bytes

    @property
    def output(self) -> StorePath:
        """Its only output."""
        return self.derivation.output_paths[0]


class Recipes:
    """Makes derivations that run the benchmark's builder, each one a new one.

    Args:
        store: The store they are for.
        builder: The builder's item there.
    """

    def __init__(self, store: StoreDirectory, builder: StorePath) -> None:
        self._store = store
        self._builder = builder
        self._hashes: dict[StorePath, bytes] = {}
        self._made = 0

    def make(self, *inputs: Recipe, sources: Iterable[StorePath] = (), **variables: str) -> Recipe:
        """Make one that depends on others, and has some variables besides."""
        self._made += 1
        name = f"bench-{self._made}"
        blank = Derivation(
            outputs={"out": Output("")},
            input_derivations={each.path: ("out",) for each in inputs},
            input_sources=(*sources, self._builder),
            system=SYSTEM,
            builder=self._builder,
            args=(),
            env={"unique": f"{time.time_ns()}", **variables},
        )
        lookup = self._hashes.__getitem__
        drv = fill_output_paths(blank, name, self._store, lookup)
        text = unparse_derivation(drv)
        path = self._store.text_path(f"{name}.drv", sha256(text).digest(), drv.references)
        self._hashes[path] = hash_derivation_modulo(drv, lookup)
        return Recipe(path, drv, text)

    def chain(self, length: int) -> list[Recipe]:
        """Make some of which each depends on the one before."""
        made = [self.make()]
        while len(made) < length:
            made.append(self.make(made[-1]))
        return made
