# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of bytes as Guix's clients show them. Entry point: `show_bytes`."""

_UNITS = ("EiB", "PiB", "TiB", "GiB", "MiB", "KiB")


def show_bytes(size: int) -> str:
    """Write a number of bytes as the reference does, padded for a column.

    A number that is just one unit, or below zero, is written in the next smaller
    unit, or in bytes: so the reference has it, and clients compare texts.
    """
    for power, unit in zip(range(len(_UNITS), 0, -1), _UNITS, strict=True):
        if size > 1 << (10 * power):
            return f"{size / (1 << (10 * power)):7.2f} {unit}"
    return f"{size:4}  bytes"
