# SPDX-License-Identifier: GPL-3.0-or-later
"""A request's plan: what is wanted, what is open, and what is known not to be had. Data.

The planner fills it, the request acts on it. Entry point: `Plan`.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from builder.errors import BuildError
from builder.events import FailureKind
from builder.options import BuildMode
from builder.planning.graph import BuildGraph
from builder.substitution.closures import OfferBook
from builder.substitution.offers import Offer
from store.derivations import Derivation
from store.paths import StoreDirectory, StorePath, is_derivation


class Validity(Protocol):
    """The one thing the planner asks the database."""

    def is_valid(self, path: StorePath) -> bool:
        """Tell whether an item is registered."""


class Roots(Protocol):
    """What keeps items from being collected as garbage while a client works with them."""

    def add(self, *paths: StorePath) -> Awaitable[None]:
        """Keep items, valid or not; waits while a collection is going on."""


Load = Callable[[StorePath], Awaitable[Derivation]]
"""Returns the derivation of a valid item."""

Ask = Callable[[Collection[StorePath]], Awaitable[Mapping[StorePath, Offer]]]
"""Asks substituters for items, and returns what is offered."""


class Inspection(Protocol):
    """Looks at items that may be damaged; see `builder.planning.inspection`."""

    async def intact(self, path: StorePath) -> bool:
        """Tell whether a valid item has the content that was registered."""

    async def damage_behind(
        self, drv: StorePath, own: Collection[StorePath], outputs: Iterable[StorePath]
    ) -> dict[StorePath, StorePath | None]:
        """Find what is damaged of what outputs refer to, and which derivations make it."""


Obtain = Callable[[StorePath, Derivation], Awaitable[bool]]
"""Makes the output of a fixed derivation valid if its content is known; tells whether it is."""


class Target(NamedTuple):
    """Something that a client wants.

    Attributes:
        path: An item, or a derivation.
        outputs: Those wanted of a derivation; none named for all.
        as_item: Whether a derivation is itself what is wanted.
    """

    path: StorePath
    outputs: frozenset[str] = frozenset()
    as_item: bool = False

    @property
    def is_item(self) -> bool:
        """Whether the item itself is wanted, and nothing is known to make it."""
        return self.as_item or not is_derivation(self.path)


@dataclass(slots=True)
class Wish:
    """Items that would save work if they were substituted, and what the work is.

    Attributes:
        target: What is wanted.
        mode: How.
        items: What to substitute.
        derivation: Whose outputs or sources these are; None for a derivation that is
            missing itself, or an item that nothing is known to make.
        sources: Whether they are sources, without which nothing can be built.
        retried: Whether this was tried before, and what was missing has been built since.
        dependents: The derivations that need the target.
    """

    target: Target
    mode: BuildMode
    items: frozenset[StorePath]
    derivation: Derivation | None = None
    sources: bool = False
    retried: bool = False
    dependents: set[StorePath] = field(default_factory=set)


@dataclass(slots=True)
class Plan:
    """What a request needs.

    Attributes:
        targets: The items asked for, in order.
        roots: Keeps everything that the plan speaks of.
        ask: Asks substituters; None where they may not be used.
        fallback: Whether to build what could not be downloaded.
        inspection: Looks at items that may be damaged, for repairs.
        obtain: Makes outputs valid whose content is known; None where nothing may be done yet.
        graph: What is to be made.
        problems: Derivations of the graph, and other targets, that are known
            not to be had, and why; whoever acts on them empties it.
        realised: Derivations of the graph that turned out to need nothing; likewise.
        unavailable: Targets that nothing can make, and nobody offers.
        wishes: What is open, by what is wanted.
        offers: What is known of substitutes.
    """

    targets: tuple[StorePath, ...]
    roots: Roots
    ask: Ask | None = None
    fallback: bool = False
    inspection: Inspection | None = None
    obtain: Obtain | None = None
    graph: BuildGraph = field(default_factory=BuildGraph)
    problems: dict[StorePath, BuildError] = field(default_factory=dict)
    realised: list[StorePath] = field(default_factory=list)
    unavailable: list[StorePath] = field(default_factory=list)
    wishes: dict[StorePath, Wish] = field(default_factory=dict)
    offers: OfferBook = field(default_factory=OfferBook)

    @property
    def is_open(self) -> bool:
        """Whether something is to be decided."""
        return bool(self.wishes) or self.graph.has_undecided


def parse_target(text: str, directory: StoreDirectory) -> Target:
    """Read ``PATH`` or ``PATH!OUTPUT,OUTPUT``.

    Raises:
        InvalidPathError: The path is none.
    """
    path, _, names = text.partition("!")
    return Target(directory.parse(path), frozenset(filter(None, names.split(","))))


def substitutes_allowed(derivation: Derivation) -> bool:
    """Tell whether a derivation lets its outputs be substituted."""
    return derivation.env.get("allowSubstitutes", "1") == "1"


def dependencies_failed(path: StorePath, failed: int) -> BuildError:
    """Return the error of a derivation whose inputs could not be had."""
    return BuildError(
        f"cannot build derivation `{path}': {failed} dependencies couldn't be built",
        FailureKind.DEPENDENCY_FAILED,
    )


def closure_not_repaired(path: StorePath) -> BuildError:
    """Return the error of a derivation whose outputs refer to what is still damaged."""
    return BuildError(
        f"some paths in the output closure of derivation `{path}' could not be repaired",
        FailureKind.MISC,
    )


def substitutes_failed(path: StorePath) -> BuildError:
    """Return the error of a derivation that may not be built after a download failed."""
    return BuildError(
        f"some substitutes for the outputs of derivation `{path}' failed "
        "(usually happens due to networking issues); "
        "try `--fallback' to build derivation from source ",
        FailureKind.SUBSTITUTION_FAILED,
    )
