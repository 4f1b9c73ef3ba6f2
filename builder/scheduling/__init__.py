# SPDX-License-Identifier: GPL-3.0-or-later
"""What all clients want, built once: requests, the jobs that they share, and who hears of them.

Entry point: `scheduler`.
"""
