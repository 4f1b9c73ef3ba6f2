# SPDX-License-Identifier: GPL-3.0-or-later
"""Shells in the places of builders. Entry point: `builder.entering.visits.Visits`."""
