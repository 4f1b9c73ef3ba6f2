# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon does for clients, whatever they speak.

An operation is a coroutine function of the daemon's services, the client's
session and typed arguments, with a typed result; what it cannot do it raises as
a `StoreError`. Paths arrive as text that nobody has checked. A dialect only
reads arguments and writes results.
"""
