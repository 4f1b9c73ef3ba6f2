# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of bytes."""

import pytest

from store.units import show_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "   0  bytes"),
        (-4096, "-4096  bytes"),
        (1024, "1024  bytes"),
        (1025, "   1.00 KiB"),
        (1536 << 10, "   1.50 MiB"),
        ((1 << 30) + 1, "   1.00 GiB"),
        (1 << 41, "   2.00 TiB"),
        (5 << 50, "   5.00 PiB"),
        (7 << 60, "   7.00 EiB"),
    ],
)
def test_bytes_are_shown_as_the_reference_shows_them(size: int, text: str):
    """A whole unit is shown in the one below."""
    assert show_bytes(size) == text
