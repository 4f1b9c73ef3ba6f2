# SPDX-License-Identifier: GPL-3.0-or-later
"""Small derivations for the tests of what plans and schedules builds."""

from collections.abc import Callable, Iterable

import pytest

from store.derivations import Derivation, Output
from store.paths import StoreDirectory, StorePath

STORE = StoreDirectory("/gnu/store")
DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"

MakePath = Callable[[str], StorePath]
MakeDerivation = Callable[..., Derivation]


def _path(name: str) -> StorePath:
    number = sum(ord(letter) * 31**i for i, letter in enumerate(name))
    digits = "".join(DIGITS[(number >> (5 * i)) % 32] for i in range(32))
    return STORE.join(f"{digits}-{name}")


def _derivation(
    name: str,
    inputs: Iterable[str] = (),
    sources: Iterable[str] = (),
    outputs: Iterable[str] = ("out",),
    **env: str,
) -> Derivation:
    suffixes = {each: "" if each == "out" else f"-{each}" for each in outputs}
    return Derivation(
        outputs={each: Output(_path(f"{name}{suffix}")) for each, suffix in suffixes.items()},
        input_derivations={_path(f"{each}.drv"): ("out",) for each in inputs},
        input_sources=tuple(_path(each) for each in sources),
        system="x86_64-linux",
        builder=_path("shell"),
        args=("-e", "script"),
        env=env,
    )


@pytest.fixture
def store() -> StoreDirectory:
    """The store that the paths of these tests lie in."""
    return STORE


@pytest.fixture
def path() -> MakePath:
    """Makes a store path from a name; the same one every time."""
    return _path


@pytest.fixture
def derivation() -> MakeDerivation:
    """Makes a derivation from names."""
    return _derivation
