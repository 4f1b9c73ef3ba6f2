# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: `serve`, and the commands that talk to a daemon.

Nothing here is imported before the command that needs it, so that ``--help`` and
a mistyped option cost no more than the interpreter itself.
"""
