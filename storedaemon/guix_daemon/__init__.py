# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line and environment of guix-daemon, translated into the daemon's configuration.

Its rule: whatever starts the C++ daemon starts this one. Entry point:
`storedaemon.guix_daemon.main`, which ``contrib/guix-daemon`` runs.
"""
