# SPDX-License-Identifier: GPL-3.0-or-later
"""Derivations may limit what their outputs refer to."""

from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildError
from builder.events import FailureKind
from builder.outputs.constraints import (
    check_references,
    closure_among,
    constraints_of,
    specified_paths,
)
from store.paths import StoreDirectory

if TYPE_CHECKING:
    from tests.builder.conftest import MakeDerivation, MakePath


def test_an_allowed_list_refuses_everything_else(
    store: StoreDirectory, path: "MakePath", derivation: "MakeDerivation"
):
    """The error names the output and what it refers to."""
    drv = derivation("app", allowedReferences=f"out {path('lib')}")
    [constraint] = constraints_of(drv)
    allowed = specified_paths(drv, constraint.attribute, store)
    assert allowed == {path("app"), path("lib")}
    check_references(path("app"), constraint, allowed, {path("lib"), path("app")})
    with pytest.raises(BuildError) as error:
        check_references(path("app"), constraint, allowed, {path("gcc")})
    assert error.value.kind is FailureKind.OUTPUT_REJECTED
    assert error.value.message == (
        f"output (`{path('app')}') is not allowed to refer to path `{path('gcc')}'"
    )


def test_a_disallowed_list_refuses_only_what_it_names(
    store: StoreDirectory, path: "MakePath", derivation: "MakeDerivation"
):
    """An empty list disallows nothing."""
    drv = derivation("app", disallowedReferences=path("gcc"))
    [constraint] = constraints_of(drv)
    disallowed = specified_paths(drv, constraint.attribute, store)
    check_references(path("app"), constraint, disallowed, {path("lib")})
    with pytest.raises(BuildError):
        check_references(path("app"), constraint, disallowed, {path("lib"), path("gcc")})


def test_a_specifier_must_be_an_item_or_an_output(
    store: StoreDirectory, derivation: "MakeDerivation"
):
    """Anything else is a fault of the derivation."""
    drv = derivation("app", allowedReferences="doc")
    with pytest.raises(BuildError, match="invalid reference specifier `doc'"):
        specified_paths(drv, "allowedReferences", store)


def test_requisites_are_what_is_reachable(path: "MakePath"):
    """Items whose references are unknown end the search."""
    references = {path("app"): [path("lib")], path("lib"): [path("libc"), path("lib")]}
    assert closure_among([path("app")], references) == {path("app"), path("lib"), path("libc")}
