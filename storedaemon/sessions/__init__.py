# SPDX-License-Identifier: GPL-3.0-or-later
"""Serving one client on its socket: a module for each dialect, on top of the operations.

A session owns its socket for as long as it lasts, and is one trio task; only
what has the size of a file is handed to a thread for a while.
"""
