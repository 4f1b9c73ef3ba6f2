# SPDX-License-Identifier: GPL-3.0-or-later
"""Which builds share job tokens."""

import pytest

from builder.jobserver.wishes import takes_part
from store.derivations import Derivation

HASH = "0" * 32


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("make-4.3", False),
        ("make-4.2.1", False),
        ("make-boot0-4.3", False),
        ("gnu-make-4.2", False),
        ("make-4.4.1", True),
        ("make-4.31", True),
        ("make-3.82", False),
        ("make-mesboot0-3.80", False),
        ("make-4.1", False),
        ("cmake-4.3", True),
        ("remake-4.3", True),
        ("sed-4.3", True),
    ],
)
def test_those_with_a_make_that_stumbles_do_not(name: str, wanted: bool):
    """Unless they ask for it: then they know what they do."""
    inputs = [f"/gnu/store/{HASH}-{name}"]
    bare = Derivation({}, {}, (), "x86_64-linux", "/bin/sh", (), {})
    asking = Derivation({}, {}, (), "x86_64-linux", "/bin/sh", (), {"jobserver": "1"})
    assert takes_part(bare, inputs, unless_asked=True) is wanted
    assert takes_part(asking, inputs, unless_asked=True)
