# SPDX-License-Identifier: GPL-3.0-or-later
"""Feed damaged conversations of the Guix dialect to both ends.

Recorded conversations are cut, repeated and changed byte by byte. Nothing may
come out of a session but messages, "more", and `RemoteError`; and whatever comes
out must not depend on how the bytes were cut into pieces.

Usage: python tests/fuzz/fuzz_wire.py --seconds 10 [--seed 1]
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from storedaemon.wire import guix
from storedaemon.wire.errors import RemoteError
from storedaemon.wire.guix_client import DaemonHello, Failed, Finished, GuixClientSession
from storedaemon.wire.messages import QueryPathInfo
from storedaemon.wire.session import Greeting, GuixSession, State

TRANSCRIPTS = Path(__file__).parent.parent / "storedaemon" / "data" / "transcripts"
LENGTHS = (0, 1, 7, 8, 9, 255, 65_536, 65_537, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)

Outcome = list[object]


def conversations(side: str) -> list[bytes]:
    """All that one side said in each recording."""
    found = []
    for file in sorted(TRANSCRIPTS.glob("*.jsonl")):
        lines = map(json.loads, file.read_text().splitlines())
        found.append(b"".join(bytes.fromhex(x["hex"]) for x in lines if x["from"] == side))
    return found


def damage(data: bytes, chance: random.Random) -> bytes:
    """Change a conversation in a few places, mostly where integers are."""
    changed = bytearray(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data)
    for _ in range(chance.randrange(6)):
        if len(changed) < 16:
            break
        place = chance.randrange(24 if chance.random() < 0.1 else len(changed) // 8) * 8
        place = min(place, len(changed) - 8)
        match chance.randrange(5):
            case 0:
                changed[place : place + 8] = chance.choice(LENGTHS).to_bytes(8, "little")
            case 1:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            case 2:
                code = chance.choice(guix.TABLE).code
                changed[place : place + 8] = code.to_bytes(8, "little")
            case 3:
                del changed[place : place + 8 * chance.randrange(1, 4)]
            case _:
                changed[place:place] = changed[place : place + 8 * chance.randrange(1, 9)]
    return bytes(changed)


def pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cut bytes into pieces of random lengths."""
    longest = chance.choice((3, 40, 1000))
    start = 0
    while start < len(data):
        end = start + chance.randrange(1, longest)
        yield data[start:end]
        start = end


def daemon_side(parts: Iterator[bytes]) -> Outcome:
    """Give what the daemon's end understands; bodies are skipped."""
    session, found = GuixSession(), []
    try:
        for part in parts:
            session.receive_data(part)
            while (step := _daemon_step(session)) is not None:
                found.append(step)
    except RemoteError as error:
        found.append(error.message)
    return found


def _daemon_step(session: GuixSession) -> object | None:
    if session.state is not State.READY:
        step = session.next_greeting()
        if step is not None and not isinstance(step, Greeting):
            session.accept()
        return step
    request = session.next_request()
    if request is not None:
        session.error("go on")
        return request[1]
    return None


def client_side(parts: Iterator[bytes]) -> Outcome:
    """Give what the client's end understands; it asks the same each time."""
    session, found = GuixClientSession(), []
    try:
        for part in parts:
            session.receive_data(part)
            while (event := session.next_event()) is not None:
                found.append(event)
                if isinstance(event, DaemonHello):
                    session.introduce()
                elif isinstance(event, Finished | Failed):
                    session.request(QueryPathInfo("/p"))
    except RemoteError as error:
        found.append(error.message)
    return found


SIDES: dict[str, Callable[[Iterator[bytes]], Outcome]] = {
    "client": daemon_side,
    "daemon": client_side,
}


def check(read: Callable[[Iterator[bytes]], Outcome], data: bytes, chance: random.Random) -> None:
    """Read a conversation whole and in pieces, and compare."""
    whole = read(iter([data]))
    split = read(pieces(data, chance))
    if whole != split:
        raise AssertionError(f"{whole} but in pieces {split}")


def run(seconds: float, seed: int) -> int:
    """Fuzz for some time; give how many inputs were tried."""
    chance = random.Random(seed)
    corpus = [(side, data) for side in SIDES for data in conversations(side)]
    end = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < end:
        side, data = chance.choice(corpus)
        data = damage(data, chance)
        try:
            check(SIDES[side], data, chance)
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
