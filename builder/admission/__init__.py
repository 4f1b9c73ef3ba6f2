# SPDX-License-Identifier: GPL-3.0-or-later
"""When a build may start: slots, the machine's load, pressure and memory.

`gate` lets builds start; the rest tells it how things stand.
"""
