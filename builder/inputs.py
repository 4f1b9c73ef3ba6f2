# SPDX-License-Identifier: GPL-3.0-or-later
"""The items that a builder may see: the closure of its inputs."""

from collections.abc import Callable, Iterable
from typing import Protocol

from builder.errors import BuildError
from builder.events import FailureKind
from store.derivations import Derivation
from store.paths import StorePath

SMALL_CLOSURE = 256
"""Items up to which a closure is walked on the event loop: about a millisecond of queries."""


class References(Protocol):
    """What is asked of the database."""

    def references(self, path: StorePath) -> Iterable[StorePath]:
        """Return the references of a valid item."""

    async def closure(self, paths: Iterable[StorePath]) -> frozenset[StorePath]:
        """Return a closure of any size, without holding up other tasks."""


def direct_inputs(
    derivation: Derivation, lookup: Callable[[StorePath], Derivation]
) -> frozenset[StorePath]:
    """Return the sources, and the outputs used of each input derivation.

    Raises:
        BuildError: An output is used that its derivation does not have.
    """
    outputs = (
        _output(lookup(drv), drv, name)
        for drv, names in derivation.input_derivations.items()
        for name in names or lookup(drv).outputs
    )
    return frozenset(derivation.input_sources).union(outputs)


def _output(derivation: Derivation, drv: StorePath, name: str) -> StorePath:
    output = derivation.outputs.get(name)
    if output is None:
        raise BuildError(
            f"a non-existent output `{name}' of `{drv}' is required", FailureKind.INPUT_REJECTED
        )
    return StorePath(output.path)


async def closure_of(database: References, paths: Iterable[StorePath]) -> frozenset[StorePath]:
    """Return the closure of valid items; a small one without leaving the event loop."""
    wanted = frozenset(paths)
    small = _small_closure(database, wanted)
    return await database.closure(wanted) if small is None else small


def _small_closure(
    database: References, paths: frozenset[StorePath]
) -> frozenset[StorePath] | None:
    if len(paths) > SMALL_CLOSURE:
        return None
    seen = set(paths)
    queue = list(paths)
    while queue and len(seen) <= SMALL_CLOSURE:
        new = set(database.references(queue.pop())) - seen
        seen |= new
        queue.extend(new)
    return None if queue else frozenset(seen)
