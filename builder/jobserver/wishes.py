# SPDX-License-Identifier: GPL-3.0-or-later
"""Which builds share the job tokens, and what tells their tools of it; pure.

Entry points: `takes_part`, `MAKEFLAGS`.
"""

import re
from collections.abc import Iterable

from builder.errors import BuildError
from builder.events import FailureKind
from store.derivations import Derivation

FIFO = "/etc/jobserver"
"""Where builders see the fifo: not in /tmp, which is theirs, nor in /dev, which is sealed."""

MAKEFLAGS = f" -j --jobserver-auth=fifo:{FIFO}"
"""The same on every machine, whatever its number of tokens."""

ATTRIBUTE = "jobserver"

# GNU make 4.2 and 4.3 end with an error where a fifo is named; older ones see `-j' alone.
_OLD_MAKE = re.compile(
    r"/[0-9a-z]{32}-(?:gnu-)?make(?:-[a-z][a-z0-9]*)*-(?:3\.[0-9]+|4\.[0-3](?![0-9]))"
)


def takes_part(derivation: Derivation, inputs: Iterable[str], *, unless_asked: bool) -> bool:
    """Tell whether a build gets a fifo.

    Args:
        derivation: What is built; its attribute ``jobserver`` goes before all else.
        inputs: The items that its builder sees.
        unless_asked: What holds where it has no such attribute.

    Raises:
        BuildError: The attribute is neither ``0`` nor ``1``.
    """
    word = derivation.env.get(ATTRIBUTE, "1" if unless_asked else "0")
    if word not in ("0", "1"):
        raise BuildError(
            f"attribute `{ATTRIBUTE}' of the derivation must be 0 or 1, not `{word:.80}'",
            FailureKind.INPUT_REJECTED,
        )
    if word == "0" or "MAKEFLAGS" in derivation.env:
        return False
    return ATTRIBUTE in derivation.env or not any(map(_OLD_MAKE.search, inputs))
