# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a client asks for to what has to be made for it, and in which order.

Entry point: `planner`.
"""
