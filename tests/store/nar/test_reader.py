# SPDX-License-Identifier: GPL-3.0-or-later

import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import NarError
from store.nar.events import Content, Directory, NarEvent, Regular
from store.nar.reader import NarLimits, NarReader
from store.nar.writer import write

Words = Callable[..., bytes]
U64 = 1 << 64

# What an unmodified client sent to the reference daemon.
RECORDED = json.loads((Path(__file__).parents[1] / "data" / "additions.json").read_text())["trees"]


def read(pieces: Iterable[bytes]) -> list[NarEvent]:
    """Read a whole archive from pieces."""
    reader = NarReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    reader.end()
    return events


def split(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes at some places."""
    cuts = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]


def fault(data: bytes) -> NarError:
    """Return the error that an archive is refused with, the same for every way of feeding it."""
    errors = []
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        with pytest.raises(NarError) as caught:
            read(pieces)
        errors.append(caught.value)
    assert errors[0].reason == "invalid-nar"
    return errors[0]


@pytest.mark.parametrize("tree", RECORDED, ids=lambda tree: tree["name"])
def test_recorded_archives_are_reproduced(tree: dict[str, str]):
    """What a client sent is read, and written again byte for byte."""
    archive = bytes.fromhex(tree["nar"])
    assert b"".join(write(read([archive]))) == archive


@given(st.data())
def test_how_the_bytes_are_cut_makes_no_difference(
    nodes: st.SearchStrategy[Any], archive_of: Any, events_of: Any, joined: Any, data: st.DataObject
):
    """Whole, byte by byte or at random places, an archive says the same."""
    node = data.draw(nodes)
    archive = archive_of(node)
    expected = joined(events_of(node))
    places = data.draw(st.lists(st.integers(0, 1 << 20), max_size=6))
    assert joined(read([archive])) == expected
    assert joined(read([archive[i : i + 1] for i in range(len(archive))])) == expected
    assert joined(read(split(archive, places))) == expected


@given(st.data())
def test_what_is_accepted_is_canonical(
    nodes: st.SearchStrategy[Any], archive_of: Any, data: st.DataObject
):
    """Of a damaged archive either nothing is accepted, or what the writer writes again."""
    archive = bytearray(archive_of(data.draw(nodes)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(archive) - 1))
        change = data.draw(st.integers(0, 2))
        if change == 0:
            archive[place] = data.draw(st.integers(0, 255))
        elif change == 1:
            del archive[place : place + data.draw(st.sampled_from([1, 8, 16]))]
        else:
            archive[place:place] = archive[place - place % 8 :][:16]
        if not archive:
            return
    reader = NarReader()
    try:
        events = reader.feed(bytes(archive))
        reader.end()
    except NarError:
        return
    assert b"".join(write(events)) == archive[: len(archive) - reader.excess]


@pytest.mark.parametrize("extra", [b"", b"\0", b"next message", bytes(100_000)])
@pytest.mark.parametrize("cut", [None, 1, 15, 200])
def test_bytes_behind_the_end_are_left_alone(
    sample: Any, archive_of: Any, extra: bytes, cut: int | None
):
    """They belong to the next message, and the reader says how many they are."""
    archive = archive_of(sample)
    reader = NarReader()
    if cut is not None:
        reader.feed(archive[:-cut])
        assert not reader.finished
        assert reader.excess == 0
    reader.feed((archive if cut is None else archive[-cut:]) + extra)
    assert reader.finished
    assert reader.excess == len(extra)
    assert reader.consumed == len(archive)
    assert reader.feed(b"more") == []
    assert reader.excess == 4


def test_an_archive_that_ends_early_is_refused(sample: Any, archive_of: Any):
    """No prefix of an archive is one."""
    archive = archive_of(sample)
    for length in range(len(archive)):
        reader = NarReader()
        reader.feed(archive[:length])
        assert not reader.finished
        with pytest.raises(NarError, match=rf"ends before it is complete \(byte {length},"):
            reader.end()


def entry(words: Words, name: bytes, node: bytes) -> bytes:
    """Write an entry of a directory."""
    return words(b"entry", b"(", b"name", name, b"node") + node + words(b")")


def directory(words: Words, *entries: bytes) -> bytes:
    """Write a directory."""
    return words(b"(", b"type", b"directory") + b"".join(entries) + words(b")")


NAR = b"nix-archive-1"
EMPTY = (b"(", b"type", b"regular", b"contents", b"", b")")
LINK = (b"(", b"type", b"symlink", b"target")


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ((b"nix-archive-2", *EMPTY), "doesn't look like a normalized archive (byte 0, in `/')"),
        ((b"", *EMPTY), "doesn't look like a normalized archive (byte 0,"),
        ((NAR, b"type"), "expected `(', not `type' (byte 24, in `/')"),
        ((NAR, b"(", b"regular"), "expected `type', not `regular' (byte 40,"),
        ((NAR, b"(", b")"), "expected `type', not `)'"),
        (
            (NAR, b"(", b"type", b"socket"),
            "expected `regular' or `directory' or `symlink', not `socket' (byte 56,",
        ),
        (
            (NAR, b"(", b"type", b"regular", b")"),
            "expected `contents' or `executable', not `)' (byte 72,",
        ),
        (
            (NAR, b"(", b"type", b"regular", b"executable", b"yes"),
            "expected `', not `yes' (byte 96,",
        ),
        (
            (NAR, b"(", b"type", b"regular", b"contents", b"", b"executable", b"", b")"),
            "expected `)', not `executable' (byte 96,",
        ),
        (
            (NAR, b"(", b"type", b"regular", b"contents", b"", b"contents", b"x", b")"),
            "expected `)', not `contents'",
        ),
        ((NAR, b"(", b"type", b"regular", b"type"), "not `type'"),
        ((NAR, b"(", b"type", b"directory", b"target"), "expected `entry' or `)', not `target'"),
        ((NAR, b"(", b"type", b"directory", b"entry", b"(", b"node"), "expected `name', not"),
        ((NAR, b"(", b"type", b"directory", b"entry", b"name"), "expected `(', not `name'"),
        ((NAR, b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b")"), "not `)'"),
        ((NAR, *LINK, b"", b")"), "a link target is empty or holds a NUL"),
        ((NAR, *LINK, b"a\0b", b")"), "a link target is empty or holds a NUL"),
        ((NAR, *LINK, b"a", b"target", b"b", b")"), "expected `)', not `target'"),
        ((NAR, b"(", b"type", b"x" * 32), f"not `{'x' * 32}'"),
        ((NAR, b"(", b"type", b"x" * 33), "not a string of 33 bytes"),
    ],
)
def test_words_out_of_order_are_refused(words: Words, sequence: tuple[bytes, ...], message: str):
    """Unknown, missing, repeated and misplaced words are named, with the place."""
    error = fault(words(*sequence))
    assert str(error).startswith("bad archive: ")
    assert message in str(error)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/b", b"/a", b"a\0", b"\0"])
def test_names_that_lead_elsewhere_are_refused(words: Words, name: bytes):
    """A name is one component of a path, and never the directory itself."""
    error = fault(words(NAR) + directory(words, entry(words, name, words(*EMPTY))))
    assert f"NAR contains invalid file name `{name.decode()}' (byte " in str(error)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([b"a", b"a"], "the file name `a' occurs twice"),
        ([b"b", b"a"], "NAR directory is not sorted: `a' comes late"),
        ([b"a", b"B"], "NAR directory is not sorted: `B' comes late"),
        ([b"a\xff", b"a", b"b"], "NAR directory is not sorted: `a' comes late"),
    ],
)
def test_names_must_ascend(words: Words, names: list[bytes], message: str):
    """Repeated and unsorted names are refused, and the place is told."""
    inner = directory(words, *(entry(words, name, words(*EMPTY)) for name in names))
    error = fault(words(NAR) + directory(words, entry(words, b"sub", inner)))
    assert message in str(error)
    assert str(error).endswith("in `/sub/')")


def test_a_link_cannot_be_replaced_by_a_directory(words: Words):
    """A link and then a directory of its name would write wherever the link leads."""
    link = entry(words, b"a", words(*LINK, b"/etc", b")"))
    inside = directory(words, entry(words, b"passwd", words(*EMPTY)))
    error = fault(words(NAR) + directory(words, link, entry(words, b"a", inside)))
    assert "the file name `a' occurs twice" in str(error)


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ((), b"nix-archive-1", ()),
        ((NAR,), b"(", ()),
        ((NAR, b"(", b"type"), b"regular", ()),
        ((NAR, b"(", b"type", b"regular", b"contents"), b"abc", (b")",)),
        ((NAR, *LINK), b"abc", (b")",)),
        ((NAR, b"(", b"type", b"directory", b"entry", b"(", b"name"), b"abc", (b"node",)),
    ],
)
@pytest.mark.parametrize("place", [0, -1])
def test_padding_must_be_zero(
    words: Words, before: tuple[bytes, ...], value: bytes, after: tuple[bytes, ...], place: int
):
    """Anywhere else bytes could hide that the tree on disk does not have."""
    data = bytearray(words(*before, value))
    padding = range(len(data))[-(-len(value) % 8) :]
    data[padding[place]] = 1
    message = str(fault(bytes(data) + words(*after)))
    assert "padding that is not zero" in message or "doesn't look like" in message


@pytest.mark.parametrize("length", [256, 4096, 1 << 31, 1 << 32, 1 << 63, U64 - 8, U64 - 1])
@pytest.mark.parametrize(
    "before",
    [
        (),
        (NAR,),
        (NAR, b"("),
        (NAR, b"(", b"type"),
        (NAR, b"(", b"type", b"regular"),
        (NAR, b"(", b"type", b"regular", b"executable"),
        (NAR, b"(", b"type", b"directory"),
        (NAR, b"(", b"type", b"directory", b"entry", b"(", b"name"),
        (NAR, b"(", b"type", b"directory", b"entry", b"(", b"name", b"a"),
    ],
)
def test_lengths_are_not_believed(words: Words, before: tuple[bytes, ...], length: int):
    """A length beyond its limit is refused as soon as it is read, whatever would follow."""
    fault(words(*before) + length.to_bytes(8, "little"))


@pytest.mark.parametrize("length", [4096, 1 << 31, 1 << 32, 1 << 63, U64 - 8, U64 - 1])
def test_lengths_of_targets_are_not_believed(words: Words, length: int):
    """The same for link targets, which may be longer than names."""
    fault(words(NAR, *LINK) + length.to_bytes(8, "little"))


@pytest.mark.parametrize("size", [1 << 63, U64 - 8, U64 - 1])
def test_files_larger_than_any_file_are_refused(words: Words, size: int):
    """No file system counts that far."""
    head = words(NAR, b"(", b"type", b"regular", b"contents")
    assert f"a file of {size} bytes" in str(fault(head + size.to_bytes(8, "little")))


def test_a_huge_file_costs_no_memory(words: Words):
    """What an archive claims is not allocated; what comes is passed on uncopied."""
    size = (1 << 63) - 1
    reader = NarReader()
    reader.feed(words(NAR, b"(", b"type", b"regular", b"contents") + size.to_bytes(8, "little"))
    chunk = bytearray(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(16):
            (event,) = reader.feed(chunk)
            assert isinstance(event, Content)
            assert event.data.obj is chunk
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


def test_directories_may_nest_to_the_limit(archive_of: Any):
    """64 within each other are read, 65 are not."""
    node: dict[bytes, Any] = {}
    for _ in range(63):
        node = {b"d": node}
    assert sum(isinstance(event, Directory) for event in read([archive_of(node)])) == 64
    error = fault(archive_of({b"d": node}))
    assert "more than 64 directories" in str(error)
    assert "in `/d/d/d" in str(error)


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_endless_nesting_is_refused_at_once(words: Words, depth: int):
    """A million directories within each other cost what 65 do."""
    start = time.process_time()
    data = words(NAR) + words(
        b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b"node"
    ) * min(depth, 10_000)
    with pytest.raises(NarError, match="more than 64 directories"):
        NarReader().feed(data * (depth // 10_000))
    assert time.process_time() - start < 2


def test_limits_can_be_tightened(archive_of: Any, words: Words):
    """Each limit is compared before anything of that size is kept."""
    long_name = archive_of({b"abcd": {}})
    with pytest.raises(NarError, match="a file name of 4 bytes, where 3 are allowed"):
        NarReader(NarLimits(name=3)).feed(long_name)
    with pytest.raises(NarError, match="a link target of 4 bytes, where 3 are allowed"):
        NarReader(NarLimits(target=3)).feed(words(NAR, *LINK, b"abcd"))
    with pytest.raises(NarError, match="more than 1 directories"):
        NarReader(NarLimits(depth=1)).feed(long_name)
    with pytest.raises(NarError, match="a file of 5 bytes, where 4 are allowed"):
        NarReader(NarLimits(file_size=4)).feed(
            words(NAR, b"(", b"type", b"regular", b"contents", b"hello")
        )


def test_names_and_targets_may_be_as_long_as_linux_allows(archive_of: Any, words: Words):
    """255 and 4095 bytes pass, one more does not."""
    read([archive_of({b"n" * 255: {}})])
    read([words(NAR, *LINK, b"t" * 4095, b")")])
    assert "a file name of 256 bytes" in str(fault(archive_of({b"n" * 256: {}})))
    assert "a link target of 4096 bytes" in str(fault(words(NAR, *LINK, b"t" * 4096, b")")))


def test_a_wrong_word_is_refused_without_waiting_for_more(words: Words):
    """Who waits for an answer after sending nonsense gets one."""
    with pytest.raises(NarError):
        NarReader().feed(b"GET / HTTP/1.1\r\n")
    reader = NarReader()
    reader.feed(words(NAR))
    with pytest.raises(NarError):
        reader.feed(b"\x02")


def test_content_between_two_feeds_is_not_gathered(words: Words):
    """Each piece of a file is passed on as it comes, even a single byte."""
    reader = NarReader()
    head = words(NAR, b"(", b"type", b"regular", b"contents")
    events = reader.feed(head + (20).to_bytes(8, "little") + b"abc")
    assert events[0] == Regular(b"", executable=False, size=20)
    assert [bytes(event.data) for event in events[1:] if isinstance(event, Content)] == [b"abc"]
    (event,) = reader.feed(memoryview(b"d"))
    assert isinstance(event, Content)
    assert bytes(event.data) == b"d"


def test_large_archives_survive_any_window(archive_of: Any, events_of: Any, joined: Any):
    """Names, content and padding may lie across the edges of whatever is read at a time."""
    generator = random.Random(7)
    node = {
        b"%05d" % number: {b"f": generator.randbytes(generator.randrange(3000))}
        for number in range(400)
    }
    archive, expected = archive_of(node), joined(events_of(node))
    for chunk in (4093, 65_536, 100_003, len(archive)):
        pieces = [archive[start : start + chunk] for start in range(0, len(archive), chunk)]
        assert joined(read(pieces)) == expected
