# SPDX-License-Identifier: GPL-3.0-or-later
"""The client library: connect, add, describe a derivation, build, follow events.

    connection   `connect`, and what several requests on one socket share
    client       `Client`: one method a method of the protocol
    steering     the part of `Client` that follows builds, steers and enters them
    entering     `Shell`: what runs in the place of a builder
    builds       `Build`: the events of a build, then its result
    describe     derivations as Python data
    uploads      bodies: files and directories as the protocol takes them
    recipes      recipe files, parsed
    instantiate  recipe files, turned into derivations in the store
    errors       what can go wrong

It marshals and moves bytes; every decision is the daemon's.
"""
