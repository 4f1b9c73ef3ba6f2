# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing builds to other machines through a build hook, which for Guix is ``guix offload``."""
