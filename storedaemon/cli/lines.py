# SPDX-License-Identifier: GPL-3.0-or-later
"""Printing results: a JSON value a line, or lines."""

import json
import sys
from collections.abc import Iterable
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON value on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
