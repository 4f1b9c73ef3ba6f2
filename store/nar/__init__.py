# SPDX-License-Identifier: GPL-3.0-or-later
"""Normal archives (NAR): the one serialisation of a file tree that the store hashes.

An archive is a sequence of events (`events`). `reader` turns bytes into events
and `writer` events into bytes, neither with any I/O; `dump` makes events of a
tree on disk, `restore` a tree of events, and `hash` the hash of a tree.
`format` holds the words all of them share.
"""
