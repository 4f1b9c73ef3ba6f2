# SPDX-License-Identifier: GPL-3.0-or-later
"""Making store items of what a builder left: `store.sealing.seal` is the way in.

Runs in store workers. One walk over an output checks whose it is, makes its
metadata canonical (`walk`), and yields its hash, size, references and links
(`seal`). A fixed output is copied first (`copying`), out of reach of whoever
may have kept a descriptor of it.
"""
