# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection: what no root reaches is forgotten, then deleted.

Roots are gathered while the collector's lock keeps other daemons from adding
any (`gclock`, `busy`, and `store.root_finder`). What they do not reach comes
out of one query (`store.database.garbage`), is put in an order in which
referrers go first (`order`), and goes by the batch (`sweep`): forgotten in a
transaction, then moved out of the way (`trash`). Sessions of our own go on
meanwhile; what they come to need is spared (`sparing`). Nothing that is valid
is ever touched: whenever all this ends, cut off or not, what remains is whole,
or is garbage that the next collection finds. Entry point: `Collector`.
"""

from store.collection.collector import Collected, Collector, Reason
from store.collection.events import Event
from store.collection.wishes import Action, Wish

__all__ = ["Action", "Collected", "Collector", "Event", "Reason", "Wish"]
