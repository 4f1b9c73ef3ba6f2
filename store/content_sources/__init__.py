# SPDX-License-Identifier: GPL-3.0-or-later
"""Media with content that fixed outputs may state, such as a DVD with sources.

Each source is gone through in the background by a thread of its own (`scanner`, `hashing`),
which writes down what has which hash (`catalogue`); `sources` is the way in.
"""
