# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts at builds, as the maps of results, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from builder.retries.policy import Cause, Quiet
from builder.retries.records import Attempt, Flaky


def attempt_map(attempt: Attempt) -> dict[str, Any]:
    """Give an attempt as `attempts` lists it."""
    values = {name.replace("_", "-"): value for name, value in attempt._asdict().items()}
    return {**values, "cause": attempt.cause.value, "quiet": attempt.quiet.word}


def parse_attempt(values: Mapping[str, Any]) -> Attempt:
    """Read what `attempt_map` made; raises KeyError or ValueError where it is something else."""
    known = {name: values[name.replace("_", "-")] for name in Attempt._fields}
    return Attempt(**{**known, "cause": Cause(known["cause"]), "quiet": Quiet.of(known["quiet"])})


def flaky_map(flaky: Flaky) -> dict[str, Any]:
    """Give an entry of the list of what passes only when it is quiet."""
    values = {each.name: getattr(flaky, each.name) for each in fields(flaky)}
    return {**values, "quiet": flaky.quiet.word}


def parse_flaky(values: Mapping[str, Any]) -> Flaky:
    """Read what `flaky_map` made; raises KeyError or ValueError where it is something else."""
    known = {each.name: values[each.name] for each in fields(Flaky)}
    return Flaky(**{**known, "quiet": Quiet.of(known["quiet"])})
