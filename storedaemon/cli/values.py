# SPDX-License-Identifier: GPL-3.0-or-later
"""Values on the command line; what is none is refused with a text for people."""

import argparse
import os
import string
from collections.abc import Mapping

_SIZES = {
    f"{letter}{suffix}": 1 << (10 * power)
    for power, letter in enumerate(("", "k", "m", "g", "t"))
    for suffix in ("", "b", "ib")
} | {"": 1}
_DURATIONS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31557600}


def item(text: str) -> str:
    """Read a path in the store, which may be relative, as shells complete it."""
    return os.path.abspath(text) if "/" in text else text


def target(text: str) -> str:
    """Read what is to be built; a recipe file is named as its user names it."""
    return text if text.endswith(".toml") else item(text)


def number(text: str) -> int:
    """Read a count."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to 999999999")
    return int(text)


def priority(text: str) -> int:
    """Read a number that may be negative; whether it is in range, the daemon tells."""
    if not text.removeprefix("-").isdecimal() or len(text) > 5:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from -1000 to 1000")
    return int(text)


def interval(text: str) -> float:
    """Read seconds between two looks."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds from 0.05 to 86400")
    return seconds


def size(text: str) -> int:
    """Read a number of bytes, perhaps with a unit."""
    return _measure(text, _SIZES, "size, such as 500M or 10G")


def duration(text: str) -> int:
    """Read a number of seconds, perhaps with a unit."""
    return _measure(text, _DURATIONS, "time, such as 12h or 30d")


def _measure(text: str, units: Mapping[str, int], what: str) -> int:
    """Read a whole number with a unit after it; without one, it is the smallest."""
    digits = text.rstrip("".join(string.ascii_letters))
    unit = units.get(text[len(digits) :].lower())
    if unit is None or not (digits.isascii() and digits.isdigit() and len(digits) < 13):
        raise argparse.ArgumentTypeError(f"'{text}' is no {what}")
    return int(digits) * unit
