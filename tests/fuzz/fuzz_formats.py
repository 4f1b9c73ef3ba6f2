# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzz the parsers of the store's formats: archives, exports, signatures, derivations and less.

    python tests/fuzz/fuzz_formats.py --seconds 60

Inputs are mutations of recorded ones and of what was interesting before. The
only outcomes allowed are success, after which writing must give the input back
where the format has one spelling, and `StoreError`. Anything else, a case that
takes a second, or memory beyond a limit is a finding: it is printed as base 64
with the seed, and the exit status is 1.
"""

import argparse
import base64
import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from store import base32
from store.derivations import parse_derivation, unparse_derivation
from store.errors import StoreError
from store.exports import ExportReader, ReadItem, encode_signature
from store.hashes import Digest, HashAlgorithm, Hasher, new_hasher
from store.nar.events import Content, NarEvent
from store.nar.reader import NarReader
from store.nar.writer import write
from store.paths import StoreDirectory, check_name, hash_part, name_of
from store.signatures import canonical
from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import read_expression, verify

DATA = Path(__file__).parents[1] / "store" / "data"
EXPORT = Path(__file__).parents[1] / "storedaemon/data/transcripts/import-15.jsonl"
STORE = StoreDirectory("/gnu/store")

MAX_INPUT = 1 << 16
MAX_SECONDS = 1.0
MAX_CORPUS = 500

# Beyond what the interpreter has mapped at the start. Inputs are far smaller.
MAX_MEMORY = 256 << 20

INTERESTING = (0, 1, 7, 8, 9, 31, 32, 33, 255, 256, 4095, 4096, 2**31, 2**32, 2**63, 2**64 - 8)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, inputs it accepts, and pieces that mean something to it."""

    run: Callable[[bytes, random.Random], None]
    corpus: tuple[bytes, ...]
    tokens: tuple[bytes, ...]


def run_nar(data: bytes, rng: random.Random) -> None:
    """Read an archive, fed whole or in pieces; what is accepted must be canonical."""
    reader = NarReader()
    step = rng.choice((1, 7, 64, MAX_INPUT))
    content: list[bytes] = []
    events: list[NarEvent] = []
    for start in range(0, len(data), step):
        for event in reader.feed(data[start : start + step]):
            if isinstance(event, Content):
                content.append(bytes(event.data))
                events.append(Content(memoryview(content[-1])))
            else:
                events.append(event)
        if reader.finished:
            break
    reader.end()
    assert b"".join(write(events)) == data[: reader.consumed]


class _Archive:
    """Takes the archive of an item, and hashes it."""

    def __init__(self) -> None:
        self._reader = NarReader()
        self._hasher = new_hasher(HashAlgorithm.SHA256)
        self.data = b""

    @property
    def finished(self) -> bool:
        return self._reader.finished

    def feed(self, data: memoryview) -> int:
        self._reader.feed(data)
        taken = len(data) - self._reader.excess
        self._hasher.update(data[:taken])
        self.data += data[:taken]
        return taken

    def archive_hasher(self) -> Hasher:
        return self._hasher.copy()


def run_export(data: bytes, rng: random.Random) -> None:
    """Read a stream of items in pieces; what was hashed must be what was read."""
    archives: list[_Archive] = []

    def begin() -> _Archive:
        archives.append(_Archive())
        return archives[-1]

    reader = ExportReader(STORE, begin)
    step = rng.choice((1, 7, 64, MAX_INPUT))
    taken = 0
    while taken < len(data) and not reader.finished:
        taken += reader.feed(memoryview(data)[taken : taken + step])
        if reader.item is not None:
            _check_item(data, archives[-1].data, reader.item)
            reader.proceed()
    reader.end()


def _check_item(data: bytes, archive: bytes, item: ReadItem) -> None:
    """Find what was hashed: as canonical references are sorted, it may be spelt otherwise."""
    trailer = item.trailer.encode()
    if archive + trailer + encode_signature(item.signature) in data:
        assert item.digest == Digest.of(HashAlgorithm.SHA256, archive + trailer)


def run_signature(data: bytes, _rng: random.Random) -> None:
    """Verify a signature; a good one signs what was recorded, however it is spelt."""
    gcrypt = Gcrypt.load()
    expression = read_expression(gcrypt, data)
    recorded = read_expression(gcrypt, _recorded_signature())
    assert isinstance(recorded, list)
    assert canonical.parse(canonical.encode(expression)) == expression
    assert verify(gcrypt, [recorded[3]], data) == recorded[1][2][2]


def _recorded_stream() -> bytes:
    lines = [json.loads(line) for line in EXPORT.read_text().splitlines()]
    (first, *_) = (
        bytes.fromhex(line["hex"])[8:] for line in lines if "287369676e6174757265" in line["hex"]
    )
    return first


def _recorded_signature() -> bytes:
    stream = _recorded_stream()
    start = stream.index(b"(signature")
    return stream[start : stream.rindex(b")") + 1]


def run_derivation(data: bytes, _rng: random.Random) -> None:
    """Parse a derivation; its canonical form must mean the same and stay as it is."""
    drv = parse_derivation(data, STORE, "fuzz.drv")
    canonical = unparse_derivation(drv)
    again = parse_derivation(canonical, STORE, "fuzz.drv")
    assert again == drv
    assert unparse_derivation(again) == canonical


def run_path(data: bytes, _rng: random.Random) -> None:
    """Parse a store path; its parts must make it up."""
    text = data.decode("utf-8", "surrogateescape")
    path = STORE.parse(text)
    check_name(name_of(path))
    assert f"/gnu/store/{hash_part(path)}-{name_of(path)}" == text
    assert STORE.item_of(text + "/bin") == path


def run_hash(data: bytes, _rng: random.Random) -> None:
    """Read digits of a hash by themselves and with an algorithm."""
    text = data.decode("utf-8", "surrogateescape")
    word, _, digits = text.partition(":")
    digest = Digest.parse(HashAlgorithm.parse(word), digits)
    assert digits.lower() in {digest.base16, digest.base32}


def run_base32(data: bytes, _rng: random.Random) -> None:
    """Decode base 32; there is one spelling of each value."""
    text = data.decode("utf-8", "surrogateescape")
    assert base32.encode(base32.decode(text)) == text


def targets() -> dict[str, Target]:
    """Return what can be fuzzed, with inputs recorded from real clients."""
    recorded = json.loads((DATA / "additions.json").read_text())
    texts = [item["text"].encode() for item in recorded["texts"] if ".drv" in item["name"]]
    paths = [item["path"].encode() for item in recorded["texts"]]
    digests = [Digest.of(algorithm, b"seed") for algorithm in HashAlgorithm]
    spellings = [
        f"{digest.algorithm}:{digits}".encode()
        for digest in digests
        for digits in (digest.base16, digest.base32)
    ]
    return {
        "nar": Target(
            run_nar,
            tuple(bytes.fromhex(tree["nar"]) for tree in recorded["trees"]),
            tuple(
                _words(word)
                for word in ["(", ")", "type", "regular", "directory", "symlink", "entry"]
            )
            + tuple(_words(word) for word in ["name", "node", "target", "contents", "executable"]),
        ),
        "derivation": Target(
            run_derivation,
            tuple(texts),
            (b'"', b"\\", b'\\"', b"\\n", b"[", b"]", b"(", b")", b",", b'("","")', b"\0", b"r:"),
        ),
        "export": Target(
            run_export,
            (_recorded_stream(),),
            (bytes(8), b"\1" + bytes(7), b"NIXE" + bytes(4), _words("/gnu/store/x"), b"\0"),
        ),
        "signature": Target(
            run_signature,
            (_recorded_signature(),),
            (b"(", b")", b"#", b"(hash sha256 #00#)", b"4:data", b"|", b'"', b"[", b"{", b"\0"),
        ),
        "path": Target(run_path, tuple(paths), (b"/", b"..", b".", b"/gnu/store/", b"-", b"\n")),
        "hash": Target(run_hash, tuple(spellings), (b":", b"sha256:", b"r:", b" ", b"\n")),
        "base32": Target(
            run_base32, tuple(digest.base32.encode() for digest in digests), (b"e", b"_", b"\n")
        ),
    }


def _words(word: str) -> bytes:
    data = word.encode()
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def mutate(data: bytes, target: Target, corpus: list[bytes], rng: random.Random) -> bytes:
    """Change an input in one to five places."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        place = rng.randrange(len(changed) + 1)
        rng.choice(MUTATIONS)(changed, place, target, corpus, rng)
    return bytes(changed[:MAX_INPUT])


Mutation = Callable[[bytearray, int, Target, list[bytes], random.Random], None]


def _flip(data: bytearray, place: int, _t: Target, _c: list[bytes], rng: random.Random) -> None:
    if place < len(data):
        data[place] ^= 1 << rng.randrange(8)


def _set(data: bytearray, place: int, _t: Target, _c: list[bytes], rng: random.Random) -> None:
    data[place : place + 1] = rng.randbytes(1)


def _number(data: bytearray, place: int, _t: Target, _c: list[bytes], rng: random.Random) -> None:
    number = rng.choice(INTERESTING).to_bytes(8, "little")
    data[place - place % 8 : place - place % 8 + 8] = number


def _delete(data: bytearray, place: int, _t: Target, _c: list[bytes], rng: random.Random) -> None:
    del data[place : place + rng.choice((1, 8, 16, 48, 200))]


def _repeat(data: bytearray, place: int, _t: Target, _c: list[bytes], rng: random.Random) -> None:
    piece = data[place : place + rng.choice((1, 8, 16, 48, 200))]
    data[place:place] = piece * rng.choice((1, 1, 2, 100))


def _insert(data: bytearray, place: int, t: Target, _c: list[bytes], rng: random.Random) -> None:
    data[place:place] = rng.choice(t.tokens)


def _splice(data: bytearray, place: int, _t: Target, c: list[bytes], rng: random.Random) -> None:
    other = rng.choice(c)
    data[place:] = other[rng.randrange(len(other) + 1) :]


MUTATIONS: tuple[Mutation, ...] = (_flip, _set, _number, _delete, _repeat, _insert, _splice)


@dataclass(slots=True)
class Tally:
    """How a target's cases ended."""

    accepted: int = 0
    refused: int = 0


def fuzz(name: str, target: Target, seed: int) -> Iterator[Tally]:
    """Run one case after the other, without end; raise what is a finding."""
    rng = random.Random(f"{name} {seed}")
    corpus, reasons, tally = list(target.corpus), set[str](), Tally()
    while True:
        data = mutate(rng.choice(corpus), target, corpus, rng)
        start = time.process_time()
        try:
            target.run(data, rng)
        except StoreError as error:
            tally.refused += 1
            # A new kind of message means that the input got somewhere new.
            kind = "".join(letter for letter in error.message if letter.isalpha())[:60]
            fresh = kind not in reasons
            reasons.add(kind)
        except Exception as error:
            raise Finding(name, seed, data, "an unexpected exception") from error
        else:
            tally.accepted += 1
            fresh = rng.random() < 0.01
        if time.process_time() - start > MAX_SECONDS:
            raise Finding(name, seed, data, "a case that takes too long")
        if fresh and data and len(corpus) < MAX_CORPUS:
            corpus.append(data)
        yield tally


class Finding(Exception):  # noqa: N818 - it is what the program looks for, not a fault of its own
    """An input with an outcome that is not allowed."""

    def __init__(self, name: str, seed: int, data: bytes, what: str) -> None:
        text = base64.b64encode(data).decode()
        super().__init__(f"{name}, seed {seed}: {what} for {text}")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> int:
    """Fuzz the targets in turn for some seconds; return the exit status."""
    every = targets()
    parser = argparse.ArgumentParser(description="Fuzz the parsers of the store's formats.")
    parser.add_argument("--seconds", type=float, default=10, help="how long to run")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--target", choices=every, action="append", help="default: all")
    arguments = parser.parse_args()
    _limit_memory()
    runs = {
        name: fuzz(name, every[name], arguments.seed) for name in arguments.target or list(every)
    }
    tallies: dict[str, Tally] = {}
    end = time.monotonic() + arguments.seconds
    try:
        while time.monotonic() < end:
            for name, run in runs.items():
                tallies[name] = next(run)
    except Finding:
        traceback.print_exc()
        return 1
    for name, tally in tallies.items():
        sys.stdout.write(f"{name}: {tally.accepted} accepted, {tally.refused} refused\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
