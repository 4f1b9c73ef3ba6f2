# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of this program, where nothing has to be installed or imported to know it."""

VERSION = "0.1.0"
