# SPDX-License-Identifier: GPL-3.0-or-later
"""When a failed build is tried again, and how quiet it has to be then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.admission.machine import MachineState
from builder.errors import BuildError
from builder.retries.attributes import settings_of
from builder.retries.policy import (
    RETRIABLE,
    Cause,
    Ended,
    Quiet,
    RetrySettings,
    decide,
    limit,
    quiet_to_begin_with,
)
from store.derivations import Derivation, Output

THREE = RetrySettings(attempts=3)


def test_attempts_become_quieter():
    """First half the slots, then alone, and then it is over."""
    assert decide(THREE, Ended(1, Cause.EXIT, Quiet.USUAL, 3)) is Quiet.HALF
    assert decide(THREE, Ended(2, Cause.EXIT, Quiet.HALF, 1)) is Quiet.ALONE
    assert decide(THREE, Ended(3, Cause.EXIT, Quiet.ALONE, 1)) is None


def test_what_was_alone_is_not_tried_again():
    """Nothing would be different."""
    assert decide(THREE, Ended(1, Cause.EXIT, Quiet.USUAL, 0)) is None


def test_out_of_memory_means_alone_at_once():
    """Half a machine's builds would be likely to need too much again."""
    assert decide(THREE, Ended(1, Cause.MEMORY, Quiet.USUAL, 1)) is Quiet.ALONE


@given(
    attempts=st.integers(1, 5),
    number=st.integers(1, 5),
    cause=st.sampled_from(Cause),
    causes=st.frozensets(st.sampled_from(RETRIABLE)),
    quiet=st.sampled_from(Quiet),
    beside=st.integers(0, 9),
)
def test_no_attempt_is_louder_or_one_too_many(
    attempts: int,
    number: int,
    cause: Cause,
    causes: frozenset[Cause],
    quiet: Quiet,
    beside: int,
):
    """Whatever the settings; and only for the causes that they name."""
    settings = RetrySettings(attempts=attempts, causes=causes)
    following = decide(settings, Ended(number, cause, quiet, beside))
    if following is not None:
        assert number < attempts
        assert cause in causes
        assert following >= quiet
        assert following > Quiet.USUAL


def test_limits_of_company():
    """Half of one slot is still one."""
    assert [limit(Quiet.HALF, slots) for slots in (1, 2, 5, 8)] == [1, 1, 2, 4]
    assert limit(Quiet.ALONE, 8) == 1
    assert limit(Quiet.USUAL, 8) is None


def test_a_machine_is_quiet_only_by_stated_values():
    """Without any, it is never so quiet that a build need not be alone."""
    idle = MachineState(available_memory=2**30)
    assert not THREE.is_quiet(idle)
    stated = RetrySettings(quiet_load=2, quiet_pressure=10, quiet_memory=2**20)
    assert stated.is_quiet(idle)
    assert not stated.is_quiet(MachineState(load=2, available_memory=2**30))
    assert not stated.is_quiet(MachineState(io_pressure=10, available_memory=2**30))
    assert not stated.is_quiet(MachineState(available_memory=2**19))


def test_what_made_the_last_one_pass_is_where_the_next_begins():
    """The latest counts; without experience nothing is assumed."""
    assert quiet_to_begin_with([Quiet.HALF, Quiet.ALONE]) is Quiet.HALF
    assert quiet_to_begin_with([]) is Quiet.USUAL


def derivation(**env: str) -> Derivation:
    """Make a derivation with an environment."""
    return Derivation(
        outputs={"out": Output("")},
        input_derivations={},
        input_sources=(),
        system="x86_64-linux",
        builder="/bin/sh",
        args=(),
        env=env,
    )


def test_attributes_go_before_settings():
    """Each by itself."""
    plain = settings_of(derivation(PATH="/bin"), THREE)
    assert plain == (Quiet.USUAL, THREE)
    quiet, settings = settings_of(derivation(retryAttempts="5", retryQuiet="alone"), THREE)
    assert (quiet, settings.attempts, settings.delay) == (Quiet.ALONE, 5, 0)
    assert settings_of(derivation(retryDelay="7", retryCores="1"), THREE)[1].cores == 1


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("retryAttempts", "0", "a number from 1 to 100"),
        ("retryAttempts", "²", "a number from 1 to 100"),
        ("retryCores", "-1", "a number from 0 to 65536"),
        ("retryDelay", "1e3", "a number from 0 to 86400"),
        ("retryQuiet", "very", "one of usual, half, alone"),
    ],
)
def test_wrong_attributes_are_named(name: str, value: str, wanted: str):
    """With what would be right."""
    with pytest.raises(BuildError, match=f"attribute `{name}' .* must be {wanted}, not `{value}'"):
        settings_of(derivation(**{name: value}), THREE)
