# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations as clients describe them, for the daemon to complete.

Plain data, shared by the client library, the dialect and the operation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_OUTPUT = "out"


@dataclass(frozen=True, slots=True)
class FixedOutput:
    """The hash that a derivation's only output must have; digits in base 16 or base 32."""

    algorithm: str
    hash: str
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class DerivationDescription:
    """What to build, before it is known where the outputs go.

    Attributes:
        name: The derivation's name, without ``.drv``.
        builder: A store path, something below one, or ``builtin:NAME``.
        args: The builder's arguments.
        env: Its environment; a variable for each output is added.
        inputs: Derivations that must be built before, and which outputs of each.
        sources: Items that are there already.
        outputs: Names of the outputs.
        system: Empty for the daemon's own.
        fixed: The hash of the only output, where it is known beforehand.
    """

    name: str
    builder: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    outputs: tuple[str, ...] = (DEFAULT_OUTPUT,)
    system: str = ""
    fixed: FixedOutput | None = None
