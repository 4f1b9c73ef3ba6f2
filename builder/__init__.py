# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds: planning them (pure), scheduling them, and running them in containers."""
