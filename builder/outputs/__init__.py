# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of what builders leave: sealed, compared, placed, kept or deleted.

Entry point: `sealing`.
"""
