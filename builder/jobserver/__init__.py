# SPDX-License-Identifier: GPL-3.0-or-later
"""One pool of job tokens for all builds, in the protocol of GNU make's jobserver.

Each build finds a fifo in its container, and reads a token from it for each job beyond
its first. What is read and written there is the builder's own affair: which tokens a
build has is in the daemon's books alone, so nobody can make tokens for others, and
what a build had is free again when it ends, whatever it did.
"""
