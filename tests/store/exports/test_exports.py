# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams of exported items: written, read however they are cut, and refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import base32
from store.additions.received import Tree
from store.errors import InvalidPathError, NarError, StoreError
from store.exports import (
    END,
    NEXT,
    ExportError,
    ExportReader,
    ItemDump,
    ReadItem,
    Trailer,
    encode_signature,
)
from store.exports.format import MAX_REFERENCES, MAX_SIGNATURE, encode_number, encode_string
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.nar.reader import NarReader
from store.paths import StoreDirectory, StorePath

RECORDED = Path(__file__).parents[2] / "storedaemon/data/transcripts/export-14.jsonl"
DIRECTORY = StoreDirectory("/gnu/store")

PATHS = st.builds(
    lambda digits, name: StorePath(f"/gnu/store/{base32.encode(digits)}-{name}"),
    st.binary(min_size=20, max_size=20),
    st.text("abc+-._?=", min_size=1, max_size=9).filter(lambda name: name[0] != "."),
)
TRAILERS = st.builds(Trailer, PATHS, st.frozensets(PATHS, max_size=4), st.none() | PATHS)
ITEMS = st.tuples(st.binary(max_size=20), TRAILERS, st.none() | st.binary(max_size=30))


class Body:
    """Takes an archive, and keeps it."""

    def __init__(self) -> None:
        self.data = b""
        self._reader = NarReader()

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self._reader.finished

    def feed(self, data: memoryview) -> int:
        """Take some more."""
        self._reader.feed(data)
        taken = len(data) - self._reader.excess
        self.data += data[:taken]
        return taken

    def archive_hasher(self) -> "hashlib._Hash":
        """Hash it."""
        return hashlib.sha256(self.data)


def nar(content: bytes) -> bytes:
    """Write the archive of a file."""
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    return b"".join(map(encode_string, words))


def read(stream: bytes, size: int = 1 << 20) -> tuple[list[tuple[bytes, ReadItem]], int]:
    """Read a stream in pieces; give archives and items, and how much of it was taken."""
    bodies: list[Body] = []

    def begin() -> Body:
        bodies.append(Body())
        return bodies[-1]

    reader = ExportReader(DIRECTORY, begin)
    items: list[ReadItem] = []
    taken = 0
    while taken < len(stream) and not reader.finished:
        taken += reader.feed(memoryview(stream)[taken : taken + size])
        if reader.item is not None:
            items.append(reader.item)
            reader.proceed()
    reader.end()
    return list(zip((body.data for body in bodies), items, strict=True)), taken


def written(archive: bytes, trailer: Trailer, signature: bytes | None) -> bytes:
    """Write an item with all that surrounds it."""
    return NEXT + archive + trailer.encode() + encode_signature(signature)


@given(st.lists(ITEMS, max_size=3), st.integers(1, 70), st.binary(max_size=9))
def test_what_is_written_is_read(
    items: list[tuple[bytes, Trailer, bytes | None]], size: int, rest: bytes
):
    """However it is cut; what follows the stream is not touched."""
    stream = b"".join(written(nar(content), *others) for content, *others in items) + END
    found, taken = read(stream + rest, size)
    assert taken == len(stream)
    assert len(found) == len(items)
    for (archive, item), (content, trailer, signature) in zip(found, items, strict=True):
        assert archive == nar(content)
        assert (item.trailer, item.signature) == (trailer, signature)
        signed = hashlib.sha256(archive + trailer.encode()).digest()
        assert item.digest == Digest(HashAlgorithm.SHA256, signed)


@given(ITEMS, st.data())
def test_a_stream_that_is_cut_short_is_no_stream(
    item: tuple[bytes, Trailer, bytes | None], data: st.DataObject
):
    """Wherever it is cut."""
    content, *others = item
    stream = written(nar(content), *others) + END
    end = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(ExportError, match="unexpected end-of-file"):
        read(stream[:end])


@given(ITEMS, st.data())
def test_damage_never_goes_unseen(item: tuple[bytes, Trailer, bytes | None], data: st.DataObject):
    """Another byte is an error, or changes what would have to be signed, or the signature."""
    content, *others = item
    stream = bytearray(written(nar(content), *others) + END)
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= data.draw(st.integers(1, 255))
    try:
        found, _ = read(bytes(stream))
    except StoreError:
        return
    original, _ = read(written(nar(content), *others) + END)
    assert [item for _, item in found] != [item for _, item in original]


def recorded_exports() -> list[tuple[bytes, bytes]]:
    """What the C++ daemon answered to exports: each stream, and whether it is signed."""
    answers = [bytes.fromhex(json.loads(line)["hex"]) for line in RECORDED.read_text().splitlines()]
    write = (0x64617416).to_bytes(8, "little")
    streams = []
    for answer in answers:
        before, found, after = answer.partition(write)
        if found and b"exporting path" in before:
            size = int.from_bytes(after[:8], "little")
            streams.append((after[8 : 8 + size], after[8 + size :]))
    return streams


def test_exports_of_the_reference_are_read_and_written_alike():
    """An unsigned one and a signed one, to the byte; what was signed is what we hash."""
    unsigned, signed = recorded_exports()
    for stream, rest in (unsigned, signed):
        assert len(rest) == 16
        [(archive, item)], _ = read(NEXT + stream + END)
        assert archive + item.trailer.encode() + encode_signature(item.signature) == stream
    assert item.signature is not None
    assert item.digest.base16.upper().encode() in item.signature


HEAD = NEXT + nar(b"x") + encode_number(0x4558494E)
PATH = encode_string(b"/gnu/store/" + b"0" * 32 + b"-x")


@pytest.mark.parametrize(
    ("stream", "error", "words"),
    [
        (encode_number(2), ExportError, "doesn't look like something created by"),
        (NEXT + nar(b"x") + encode_number(1), ExportError, "wrong format"),
        (HEAD + encode_string(b"/etc/passwd"), InvalidPathError, "is not in the store"),
        (HEAD + encode_string(b"/gnu/store/x"), InvalidPathError, "is not a store path"),
        (HEAD + encode_string(b"\xff"), InvalidPathError, "is not in the store"),
        (HEAD + encode_number(1 << 63), ExportError, "a path of 9223372036854775808 bytes"),
        (HEAD + encode_number(3) + b"abcdefgh", ExportError, "non-zero padding"),
        (HEAD + PATH + encode_number(MAX_REFERENCES + 1), ExportError, "131073 references"),
        (HEAD + PATH + NEXT + encode_string(b"x"), InvalidPathError, "`x'"),
        (HEAD + PATH + END + encode_string(b"drv"), InvalidPathError, "`drv'"),
        (
            HEAD + PATH + END + END + NEXT + encode_number(MAX_SIGNATURE + 1),
            ExportError,
            "a signature of 65537 bytes",
        ),
        (NEXT + b"x" * 64, NarError, "doesn't look like a normalized archive"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(stream: bytes, error: type[StoreError], words: str):
    """No length is used before it is compared with its bound."""
    with pytest.raises(error, match=words):
        read(stream)


def test_an_item_leaves_in_chunks(tmp_path: Path):
    """None is kept once it is out; hash and trailer are those of the whole."""
    content = os.urandom(700_000)
    name = "0" * 32 + "-x"
    (tmp_path / name).write_bytes(content)
    archive = nar(content)
    path = StorePath(f"/gnu/store/{name}")
    info = PathInfo(path, Digest.of(HashAlgorithm.SHA256, archive), len(archive), frozenset())
    fd = os.open(tmp_path, os.O_PATH)
    try:
        dump = ItemDump(fd, info)
        chunks = list(iter(dump.next_chunk, None))
        rest, digest = dump.finish()
        dump.close()
    finally:
        os.close(fd)
    assert len(chunks) == 2
    whole = archive + Trailer(path, frozenset()).encode()
    assert b"".join(chunks) + rest == whole
    assert digest == Digest.of(HashAlgorithm.SHA256, whole)


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_item_does_not_leave_whole(tmp_path: Path, known: bool):
    """Unless nobody knows what it was."""
    name = "0" * 32 + "-x"
    (tmp_path / name).write_bytes(b"other")
    value = hashlib.sha256(nar(b"that")).digest() if known else bytes(32)
    digest = Digest(HashAlgorithm.SHA256, value)
    info = PathInfo(StorePath(f"/gnu/store/{name}"), digest, 0, frozenset())
    fd = os.open(tmp_path, os.O_PATH)
    try:
        dump = ItemDump(fd, info)
        assert dump.next_chunk() is None
        if known:
            with pytest.raises(StoreError, match=f"has changed from `{value.hex()}' to `"):
                dump.finish()
        else:
            assert dump.finish()[0].startswith(nar(b"other"))
        dump.close()
    finally:
        os.close(fd)


async def test_a_tree_can_be_hashed_on(writer: object):
    """What was received is hashed once, for the registration and for the signature."""
    tree = writer.begin_import()
    assert isinstance(tree, Tree)
    archive = nar(os.urandom(3 << 20))
    for start in range(0, len(archive), 1 << 18):
        tree.feed(memoryview(archive)[start : start + (1 << 18)])
    hasher = tree.archive_hasher()
    hasher.update(b"more")
    assert hasher.digest() == hashlib.sha256(archive + b"more").digest()
    assert tree.end().nar_hash.value == hashlib.sha256(archive).digest()
    await writer.abandon(tree)
