# SPDX-License-Identifier: GPL-3.0-or-later
"""What a derivation says its outputs may and may not refer to. Pure.

The attributes are lists of store paths and of names of the derivation's own
outputs; "requisites" are the closure of the references.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.errors import BuildError
from builder.events import FailureKind
from store.derivations import Derivation
from store.paths import StoreDirectory, StorePath


@dataclass(frozen=True, slots=True)
class Constraint:
    """One of the attributes that limit references."""

    attribute: str
    allows: bool
    of_closure: bool


CONSTRAINTS = (
    Constraint("allowedReferences", allows=True, of_closure=False),
    Constraint("allowedRequisites", allows=True, of_closure=True),
    Constraint("disallowedReferences", allows=False, of_closure=False),
    Constraint("disallowedRequisites", allows=False, of_closure=True),
)


def constraints_of(derivation: Derivation) -> list[Constraint]:
    """Return the constraints that a derivation states."""
    return [each for each in CONSTRAINTS if each.attribute in derivation.env]


def specified_paths(
    derivation: Derivation, attribute: str, directory: StoreDirectory
) -> frozenset[StorePath]:
    """Return the items that an attribute names, by path or by name of an output.

    Raises:
        BuildError: It names neither.
    """
    words = derivation.env[attribute].split()
    return frozenset(_specified(word, derivation, directory) for word in words)


def _specified(word: str, derivation: Derivation, directory: StoreDirectory) -> StorePath:
    if directory.is_store_path(word):
        return directory.parse(word)
    if word in derivation.outputs:
        return StorePath(derivation.outputs[word].path)
    raise BuildError(
        f"derivation contains an invalid reference specifier `{word}'",
        FailureKind.OUTPUT_REJECTED,
    )


def check_references(
    output: StorePath,
    constraint: Constraint,
    specified: frozenset[StorePath],
    used: Iterable[StorePath],
) -> None:
    """Check what one output uses against one constraint.

    Raises:
        BuildError: It uses something it may not.
    """
    for path in sorted(used):
        if (path in specified) is not constraint.allows:
            raise BuildError(
                f"output (`{output}') is not allowed to refer to path `{path}'",
                FailureKind.OUTPUT_REJECTED,
            )


def closure_among(
    roots: Iterable[StorePath], references: Mapping[StorePath, Iterable[StorePath]]
) -> set[StorePath]:
    """Return everything reachable from `roots` through `references`; unknown items are leaves."""
    seen: set[StorePath] = set()
    queue = list(roots)
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue.extend(references.get(path, ()))
    return seen
