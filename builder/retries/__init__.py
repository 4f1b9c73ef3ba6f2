# SPDX-License-Identifier: GPL-3.0-or-later
"""Trying failed builds again, on a quieter machine, and remembering how it went.

`policy` decides, `history` remembers, `retrier` does it.
"""
