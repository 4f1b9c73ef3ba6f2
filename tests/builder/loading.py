# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations that are at hand, for what loads them from the store otherwise."""

from collections.abc import Mapping

from builder.planning.request_plan import Load
from store.derivations import Derivation
from store.paths import StorePath


def loading(derivations: Mapping[StorePath, Derivation]) -> Load:
    """Return what loads one of some derivations."""

    async def load(path: StorePath) -> Derivation:
        return derivations[path]

    return load
