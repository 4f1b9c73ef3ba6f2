# SPDX-License-Identifier: GPL-3.0-or-later
"""The native dialect, without I/O: bytes in, messages out, and back.

    connection   what each side keeps of one connection: hello, ids, windows
    messages     the messages as dataclasses, and their CBOR maps
    events       build events as maps
    records      what the daemon knows of an item, as maps
    params       typed access to the parameters of a request
    frames       the length prefix
    cbor         strict, bounded CBOR
    faults       what ends a connection

`docs/protocol.md` is the specification. Both ends of a connection use these
modules; the daemon's socket is served by `storedaemon.sessions.native`, the
client's by `storedaemon.client`.
"""
