# SPDX-License-Identifier: GPL-3.0-or-later
"""Substitutes: items that somebody else built, downloaded by ``guix substitute``.

`protocol` has what that program reads and writes, `queries` asks it what there
is, `closures` decides what can be had of it, and `substituter` does the
downloads. `resident` keeps the programs alive in between.
"""
