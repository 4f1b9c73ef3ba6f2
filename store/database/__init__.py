# SPDX-License-Identifier: GPL-3.0-or-later
"""The database of valid items, shared with the C++ daemon: `StoreDatabase.open` is the way in.

Look-ups of one item run on the event loop (`reads`), bulk queries in threads
(`bulk`), changes in turn (`writer`, `writes`), and what syncs the disk in a
thread (`checkpoints`).
"""

from store.database.database import StoreDatabase
from store.database.order import topological_order
from store.database.writer import WriterStatistics
from store.database.writes import NewItem

__all__ = ["NewItem", "StoreDatabase", "WriterStatistics", "topological_order"]
