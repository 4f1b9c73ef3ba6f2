# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon: sessions, wire dialects, operations, and the command line."""
