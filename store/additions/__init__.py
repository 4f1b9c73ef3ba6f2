# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding items that clients send: `StoreWriter.open` is the way in.

`writer` has the steps, `received` takes a body from bytes to a finished tree
and its hashes, and `incoming` is the private directory where that happens.
"""

from store.additions.received import Addition, Body
from store.additions.writer import StoreWriter

__all__ = ["Addition", "Body", "StoreWriter"]
