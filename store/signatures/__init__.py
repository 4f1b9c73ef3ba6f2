# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of exports, with Guix's key files and access-control list.

    protocol   the mini-protocol of ``guix authenticate``, without I/O
    gcrypt     the system's libgcrypt, which does all cryptography
    canonical  s-expressions as Python values; pure
    acl        which keys may sign what is imported
    keys       making and checking signatures
    server     a program like ``guix authenticate``: ``python -m store.signatures``

Only the program and the command line load libgcrypt; the daemon talks to the
program, as it does to ``guix authenticate`` where that is installed.
"""
