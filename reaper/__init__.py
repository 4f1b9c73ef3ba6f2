# SPDX-License-Identifier: GPL-3.0-or-later
"""The process monitor: the one task that reaps children, and the Process objects it returns.

Imports nothing of the rest of the project.
"""
