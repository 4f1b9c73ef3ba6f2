# SPDX-License-Identifier: GPL-3.0-or-later
"""The locker: a process that holds file locks for the daemon, and its client.

Imports nothing of the rest of the project.
"""
