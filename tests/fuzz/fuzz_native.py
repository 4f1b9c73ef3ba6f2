# SPDX-License-Identifier: GPL-3.0-or-later
"""Feed damaged conversations of the native dialect to both ends.

Conversations are cut, repeated and changed byte by byte, lengths most of all.
Nothing may come out of a connection but messages and `FaultError`, and whatever
comes out must not depend on how the bytes were cut into pieces.

Usage: python tests/fuzz/fuzz_native.py --seconds 10 [--seed 1]
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator

from storedaemon.wire.native import messages as m
from storedaemon.wire.native.connection import (
    FEATURES,
    ClientConnection,
    ServerConnection,
    limits,
)
from storedaemon.wire.native.faults import FaultError

ITEM = "/gnu/store/" + "a" * 32 + "-hello"

FROM_CLIENT: tuple[m.Message, ...] = (
    m.ClientHello((1, 1), FEATURES, 1 << 18, "fuzz"),
    m.Request(0, "is-valid", {"path": ITEM}),
    m.Request(1, "add", {"name": "x", "method": "flat"}),
    m.Chunk(1, b"some bytes"),
    m.End(1),
    m.Request(2, "build", {"targets": [ITEM + ".drv"], "keep-going": True, "cores": 3}),
    m.Credit(2, 0),
    m.Request(3, "add-derivation", {"name": "y", "env": {"a": "b"}, "inputs": {ITEM: ["out"]}}),
    m.Cancel(2),
)

FROM_DAEMON: tuple[m.Message, ...] = (
    m.ServerHello((1, 1), FEATURES, limits(), "storedaemon", "/gnu/store", "x", trusted=True),
    m.Reply(0, {"valid": True}),
    m.Credit(1, 0),
    m.Event(2, "log", {"drv": ITEM, "pid": 4, "data": b"line\n"}),
    m.Event(2, "succeeded", {"drv": ITEM, "outputs": [ITEM], "seconds": 0.5}),
    m.Failure(2, "permanent-failure", "no", {"status": 100}),
    m.Chunk(3, b"more bytes"),
    m.Fault("frame-size", "no"),
)

EDGES = (0, 1, 23, 24, 27, 28, 31, 32, 0x5B, 0x7B, 0x9B, 0x9F, 0xBB, 0xBF, 0xC0, 0xF7, 0xF8, 0xFF)

Outcome = list[object]


def damage(data: bytes, chance: random.Random) -> bytes:
    """Change a conversation in a few places."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(changed))
        match chance.randrange(5):
            case 0:
                changed[place] = chance.choice(EDGES)
            case 1:
                changed[place] = chance.randrange(256)
            case 2:
                changed[place : place + 8] = chance.randbytes(chance.randrange(9))
            case 3:
                changed[place:place] = changed[place : place + chance.randrange(64)]
            case _:
                del changed[place : place + chance.randrange(1, 5)]
        if not changed:
            return data
    return bytes(changed)


def pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cut bytes anywhere."""
    while data:
        size = chance.randrange(1, 40)
        yield data[:size]
        data = data[size:]


def daemon_side(parts: Iterator[bytes]) -> Outcome:
    """Read what a client says."""
    return _read(ServerConnection(), parts)


def client_side(parts: Iterator[bytes]) -> Outcome:
    """Read what a daemon says to a client with four requests."""
    connection = ClientConnection()
    for request in range(4):
        connection.begin(request)
    return _read(connection, parts)


def _read(connection: ServerConnection | ClientConnection, parts: Iterator[bytes]) -> Outcome:
    found: Outcome = []
    try:
        for part in parts:
            for received in connection.receive(part):
                # repr: a NaN in a message equals no other.
                found.append(repr(received))
    except FaultError as fault:
        found.append((fault.reason, fault.message))
    return found


SIDES: dict[str, tuple[Callable[[Iterator[bytes]], Outcome], tuple[m.Message, ...]]] = {
    "client": (daemon_side, FROM_CLIENT),
    "daemon": (client_side, FROM_DAEMON),
}


def check(read: Callable[[Iterator[bytes]], Outcome], data: bytes, chance: random.Random) -> None:
    """Read a conversation whole and in pieces, and compare."""
    whole, split = read(iter([data])), read(pieces(data, chance))
    if whole != split:
        raise AssertionError(f"{whole} but in pieces {split}")


def run(seconds: float, seed: int) -> int:
    """Fuzz for some time; give how many inputs were tried."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < end:
        side = chance.choice(list(SIDES))
        read, conversation = SIDES[side]
        data = damage(b"".join(map(m.encode_message, conversation)), chance)
        try:
            check(read, data, chance)
        except Exception:
            sys.stderr.write(f"seed {seed}, input {tried}, from the {side}: {data.hex()}\n")
            raise
        tried += 1
    return tried


def main() -> None:
    """Parse the command line, and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    tried = run(options.seconds, options.seed)
    sys.stdout.write(f"{tried} conversations, seed {options.seed}\n")


if __name__ == "__main__":
    main()
