# SPDX-License-Identifier: GPL-3.0-or-later
"""Wire formats without I/O: bytes become messages and messages become bytes.

``primitives`` holds integers, padded strings and lists, ``layout`` messages as
rows of fields, ``buffer`` received bytes from which messages are taken,
``messages`` the requests and replies of all worker dialects, ``guix`` the table
of the Guix dialect's operations; ``session`` is the daemon's side of a
connection and ``guix_client`` the client's. ``native`` is the native dialect.
"""
