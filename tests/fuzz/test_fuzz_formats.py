# SPDX-License-Identifier: GPL-3.0-or-later

import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "fuzz_formats.py"


@pytest.fixture(scope="module")
def fuzzer() -> dict[str, Any]:
    """The fuzzer's functions."""
    return runpy.run_path(str(PROGRAM))


@pytest.mark.parametrize(
    "name", ["nar", "export", "signature", "derivation", "path", "hash", "base32"]
)
def test_a_thousand_mutations_end_well(fuzzer: dict[str, Any], name: str):
    """Each is accepted or refused; some are refused, and the recorded inputs are all accepted."""
    target = fuzzer["targets"]()[name]
    for data in target.corpus:
        target.run(data, fuzzer["random"].Random(0))
    *_, tally = islice(fuzzer["fuzz"](name, target, 1), 1000)
    assert tally.accepted + tally.refused == 1000
    assert tally.refused


def test_an_unexpected_exception_is_a_finding(fuzzer: dict[str, Any]):
    """A parser that breaks on some byte is caught, and the input is shown."""

    def broken(data: bytes, _rng: Any) -> None:
        if b"e" in data:
            raise ValueError(data)

    target = fuzzer["Target"](broken, (b"abc",), (b"e",))
    with pytest.raises(fuzzer["Finding"], match=r"an unexpected exception for [A-Za-z0-9+/=]+$"):
        list(islice(fuzzer["fuzz"]("broken", target, 1), 1000))


def test_the_program_runs_for_as_long_as_it_is_told():
    """It says what it did and ends with status 0."""
    command = [sys.executable, PROGRAM, "--seconds", "0.3", "--seed", "1", "--target", "base32"]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    assert "base32: " in result.stdout
    assert result.stderr == ""
