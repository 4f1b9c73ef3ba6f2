# SPDX-License-Identifier: GPL-3.0-or-later
"""The Guix dialect's table: every message both ways, whole and in pieces."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.options import BuildMode
from storedaemon.wire import guix
from storedaemon.wire import messages as m
from storedaemon.wire.errors import LocalError, RemoteError
from storedaemon.wire.guix_client import Failed, Finished, GuixClientSession, LogText
from storedaemon.wire.session import GuixSession, State

OpenSession = Callable[[int], GuixSession]
OpenClient = Callable[[int], GuixClientSession]

PATH = "/gnu/store/ffffffffffffffffffffffffffffffff-nothing"


def word(value: int) -> bytes:
    """Give an integer's bytes."""
    return value.to_bytes(8, "little")


def text(value: str | bytes) -> bytes:
    """Give a string's bytes."""
    data = value.encode() if isinstance(value, str) else value
    return word(len(data)) + data + bytes(-len(data) % 8)


def words(*values: int) -> bytes:
    """Give several integers' bytes."""
    return b"".join(map(word, values))


REQUESTS = [
    *(
        (0x64, word(code) + text(PATH), request(PATH))
        for code, request in [
            (1, m.IsValidPath),
            (3, m.HasSubstitutes),
            (4, m.QueryPathHash),
            (5, m.QueryReferences),
            (6, m.QueryReferrers),
            (10, m.EnsurePath),
            (11, m.AddTempRoot),
            (12, m.AddIndirectRoot),
            (18, m.QueryDeriver),
            (21, m.QuerySubstitutablePathInfo),
            (22, m.QueryDerivationOutputs),
            (26, m.QueryPathInfo),
            (28, m.QueryDerivationOutputNames),
            (33, m.QueryValidDerivers),
        ]
    ),
    *(
        (0x64, words(code, 2) + text("/a") + text("/bb"), request(("/a", "/bb")))
        for code, request in [
            (25, m.ClearFailedPaths),
            (30, m.QuerySubstitutablePathInfos),
            (31, m.QueryValidPaths),
            (32, m.QuerySubstitutablePaths),
        ]
    ),
    *(
        (0x64, word(code), request())
        for code, request in [
            (13, m.SyncWithGC),
            (14, m.FindRoots),
            (23, m.QueryAllValidPaths),
            (24, m.QueryFailedPaths),
            (27, m.ImportPaths),
            (34, m.OptimiseStore),
            (80, m.BuiltinBuilders),
            (81, m.SubstituteURLs),
        ]
    ),
    (
        0x64,
        word(7) + text("tree") + words(1, 1) + text("sha256"),
        m.AddToStore("tree", recursive=True, algorithm="sha256"),
    ),
    (
        0x64,
        word(7) + text("old") + words(0, 0) + text(""),
        m.AddToStore("old", recursive=False, algorithm="", fixed=False),
    ),
    (
        0x64,
        word(8) + text("t") + text(b"\xff\0\n") + word(1) + text(PATH),
        m.AddTextToStore("t", b"\xff\0\n", (PATH,)),
    ),
    (0x64, words(9, 0, 2), m.BuildPaths((), BuildMode.CHECK)),
    (14, words(9, 1) + text(PATH), m.BuildPaths((PATH,))),
    (0x64, word(16) + text(PATH) + word(1), m.ExportPath(PATH, sign=True)),
    (
        0x64,
        words(19, 1, 0, 1, 3, 1, 2, 0, 1, 0, 1) + text("build-timeout") + text("5"),
        m.SetOptions(
            keep_failed=True,
            keep_going=False,
            fallback=True,
            verbosity=3,
            use_build_hook=True,
            build_verbosity=2,
            print_build_trace=True,
            use_substitutes=False,
            settings=(("build-timeout", "5"),),
        ),
    ),
    (
        0x60,
        words(19, 0, 1, 0, 1, 4, 60, 0, 2, 1, 0, 8, 1, 0),
        m.SetOptions(
            keep_failed=False,
            keep_going=True,
            fallback=False,
            verbosity=1,
            use_build_hook=False,
            build_verbosity=2,
            log_type=1,
            max_jobs=4,
            max_silent_time=60,
            build_cores=8,
        ),
    ),
    (
        1,
        words(19, 0, 0, 0, 0, 1, 2),
        m.SetOptions(
            keep_failed=False,
            keep_going=False,
            fallback=False,
            verbosity=0,
            max_jobs=1,
            max_silent_time=2,
        ),
    ),
    (
        0x64,
        words(20, 3, 1) + text(PATH) + words(0, 2**64 - 1, 0, 0, 0),
        m.CollectGarbage(
            m.GarbageAction.DELETE_SPECIFIC, (PATH,), ignore_liveness=False, max_freed=2**64 - 1
        ),
    ),
    (
        4,
        words(20, 0, 0, 0, 5, 0),
        m.CollectGarbage(m.GarbageAction.RETURN_LIVE, (), ignore_liveness=False, max_freed=5),
    ),
    (0x64, word(29) + text("f" * 32), m.QueryPathFromHashPart("f" * 32)),
    (0x64, words(35, 1, 0), m.VerifyStore(check_contents=True, repair=False)),
]

INFO = m.Substitutable("", PATH, ("/r",), 10, 20)
REPLIES = [
    (0x64, m.IsValidPath(PATH), word(1), m.Truth(value=True)),
    (0x64, m.QueryPathHash(PATH), text("ab"), m.TextReply("ab")),
    (0x64, m.QueryReferences(PATH), word(1) + text(PATH), m.TextsReply((PATH,))),
    (0x64, m.BuildPaths(()), word(1), m.Done()),
    (
        0x64,
        m.SetOptions(keep_failed=False, keep_going=False, fallback=False, verbosity=0),
        b"",
        m.NoReply(),
    ),
    (
        0x64,
        m.QueryPathInfo(PATH),
        text("/d") + text("00") + word(1) + text(PATH) + words(7, 2**40),
        m.PathInfoReply("/d", "00", (PATH,), 7, 2**40),
    ),
    (0x64, m.FindRoots(), word(1) + text("/r") + text(PATH), m.RootsReply((("/r", PATH),))),
    (
        0x64,
        m.CollectGarbage(m.GarbageAction.DELETE_DEAD, (), ignore_liveness=False, max_freed=0),
        word(1) + text(PATH) + words(2**40, 0),
        m.GarbageReply((PATH,), 2**40),
    ),
    (0x64, m.QuerySubstitutablePathInfo(PATH), word(0), m.SubstitutableReply(None)),
    (
        0x64,
        m.QuerySubstitutablePathInfo(PATH),
        word(1) + text(PATH) + word(1) + text("/r") + words(10, 20),
        m.SubstitutableReply(INFO),
    ),
    (
        6,
        m.QuerySubstitutablePathInfo(PATH),
        word(1) + text(PATH) + word(1) + text("/r") + words(10),
        m.SubstitutableReply(m.Substitutable("", PATH, ("/r",), 10, 0)),
    ),
    (
        0x64,
        m.QuerySubstitutablePathInfos((PATH,)),
        word(1) + text("/p") + text(PATH) + word(1) + text("/r") + words(10, 20),
        m.SubstitutablesReply((m.Substitutable("/p", PATH, ("/r",), 10, 20),)),
    ),
]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at some places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def ways_to_split(data: bytes) -> list[list[bytes]]:
    """Give the whole, the single bytes, and some random pieces."""
    chance = random.Random(len(data))
    cuts = [[chance.randrange(len(data) + 1) for _ in range(3)] for _ in range(5)]
    return [[data], [data[i : i + 1] for i in range(len(data))], *(pieces(data, c) for c in cuts)]


@pytest.mark.parametrize(("minor", "data", "request_"), REQUESTS)
def test_a_request_is_read_however_it_arrives(
    opened: OpenSession, minor: int, data: bytes, request_: m.Request
):
    """One buffer, single bytes and random pieces give the same request, and use all bytes."""
    for parts in ways_to_split(data):
        session = opened(minor)
        found = list(filter(None, (ask(session, part) for part in parts)))
        assert [request for _, request in found] == [request_]
        assert session.pending == 0


def ask(session: GuixSession, part: bytes) -> tuple[guix.Operation, m.Request] | None:
    """Feed a piece, and look for a request as a driver does."""
    session.receive_data(part)
    return session.next_request() if session.state is State.READY else None


@pytest.mark.parametrize(("minor", "data", "request_"), REQUESTS)
def test_a_request_is_written_as_it_is_read(
    opened_client: OpenClient, minor: int, data: bytes, request_: m.Request
):
    """The client's side writes the very bytes that the daemon's side reads."""
    assert opened_client(minor).request(request_) == data


@pytest.mark.parametrize(("minor", "request_", "data", "reply"), REPLIES)
def test_a_reply_is_written_and_read(
    opened: OpenSession,
    opened_client: OpenClient,
    minor: int,
    request_: m.Request,
    data: bytes,
    reply: m.Reply,
):
    """LAST and the fields, which the client's side reads in any pieces."""
    session = opened(minor)
    session.receive_data(opened_client(minor).request(request_))
    found = session.next_request()
    assert found is not None
    written = session.reply(found[0], reply)
    assert written == word(guix.LAST) + data
    for parts in ways_to_split(written):
        client = opened_client(minor)
        client.request(request_)
        events = []
        for part in parts:
            client.receive_data(part)
            if client.pending or part is parts[-1]:
                events.append(client.next_event() if not events or events[-1] is None else None)
        assert [event for event in events if event] == [Finished(reply)]


def test_every_operation_of_the_table_is_tested():
    """A new row needs a case here."""
    assert {type(request) for _, _, request in REQUESTS} == {row.request for row in guix.TABLE}
    assert {type(reply) for _, _, _, reply in REPLIES} == set(guix.REPLIES)


def test_numbers_of_operations_are_unique():
    """Two rows with one number would hide each other."""
    assert len(guix.operations(0x64)) == len(guix.TABLE)


BAD = [
    (words(2), "invalid operation 2"),
    (words(2**40), "operation: 1099511627776 does not fit in 32 bits"),
    (words(1, 2**64 - 1), "IsValidPath: path: 18446744073709551615 bytes are too long"),
    (words(1, 64 * 1024 + 1), "IsValidPath: path: 65537 bytes are too long"),
    (words(1, 1) + b"x\0\0\0\0\0\0\1", "IsValidPath: path: non-zero padding"),
    (words(9, 2**63), "BuildPaths: paths: 9223372036854775808 items are too many"),
    (words(9, 0, 3), "BuildPaths: mode: 3 is not known"),
    (words(20, 4), "CollectGarbage: action: 4 is not known"),
    (words(35, 2**32), "VerifyStore: check_contents: 4294967296 does not fit"),
    (word(8) + text("n") + word(2**30), "AddTextToStore: text: 1073741824 bytes are too long"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_request_is_refused_by_field(opened: OpenSession, data: bytes, message: str):
    """The error names operation and field, as soon as the bytes that show it are there."""
    session = opened(0x64)
    session.receive_data(data)
    with pytest.raises(RemoteError) as caught:
        session.next_request()
    assert caught.value.message.startswith(message)
    assert session.error(caught.value.message)[:8] == word(guix.ERROR)


def test_a_long_list_is_bounded_in_all(opened: OpenSession):
    """Items that are allowed one by one are refused when together they are too long."""
    session = opened(0x64)
    item = text("x" * 64 * 1024)
    session.receive_data(words(31, 1024 * 1024))
    for _ in range(128 * 1024 * 1024 // len(item)):
        session.receive_data(item)
        assert session.next_request() is None
    session.receive_data(item)
    with pytest.raises(RemoteError, match="paths: longer than 134217728 bytes in all"):
        session.next_request()


def test_a_list_in_small_pieces_costs_no_second_reading(opened: OpenSession):
    """Each item of a list is read once, however many times the buffer is looked at."""
    session = opened(0x64)
    count = 20_000
    session.receive_data(words(31, count))
    for _ in range(count - 1):
        session.receive_data(text(PATH))
        assert session.next_request() is None
    assert session.pending == 0
    session.receive_data(text(PATH))
    found = session.next_request()
    assert found is not None
    assert found[1] == m.QueryValidPaths((PATH,) * count)


def test_requests_in_one_buffer_come_one_by_one(opened: OpenSession):
    """A client may send requests ahead; each waits until the one before is answered."""
    session = opened(0x64)
    session.receive_data(b"".join(data for minor, data, _ in REQUESTS if minor == 0x64))
    for _, _, request in (case for case in REQUESTS if case[0] == 0x64):
        found = session.next_request()
        assert found is not None
        assert found[1] == request
        session.error("no")
    assert session.next_request() is None
    assert session.at_boundary


def test_a_status_is_sent_to_those_who_know_it(opened: OpenSession):
    """Clients before minor 8, and a status of 0, get none."""
    for minor, status, tail in [(0x64, 100, word(100)), (7, 100, b""), (0x64, 0, b"")]:
        session = opened(minor)
        session.receive_data(word(13))
        session.next_request()
        assert session.error("bad", status) == word(guix.ERROR) + text("bad") + tail


def test_another_operations_reply_is_our_bug(opened: OpenSession):
    """An answer is checked against the table before it is sent."""
    session = opened(0x64)
    session.receive_data(word(13))
    found = session.next_request()
    assert found is not None
    with pytest.raises(LocalError, match="Truth is no reply to SyncWithGC"):
        session.reply(found[0], m.Truth(value=True))


def test_a_second_request_waits_for_the_first_answer(opened: OpenSession):
    """Using a session out of order is an error of ours, not of the peer."""
    session = opened(0x64)
    session.receive_data(word(13) + word(13))
    session.next_request()
    with pytest.raises(LocalError):
        session.next_request()


texts = st.text(max_size=40)
paths = st.lists(texts, max_size=5).map(tuple)


@settings(max_examples=150)
@given(
    request=st.one_of(
        st.builds(m.IsValidPath, texts),
        st.builds(m.QueryValidPaths, paths),
        st.builds(m.AddTextToStore, texts, st.binary(max_size=99), paths),
        st.builds(m.AddToStore, texts, st.booleans(), texts, st.booleans()),
        st.builds(m.BuildPaths, paths, st.sampled_from(BuildMode)),
        st.builds(
            m.SetOptions,
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.integers(0, 2**32 - 1),
            settings=st.lists(st.tuples(texts, texts), max_size=5).map(tuple),
        ),
    ),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
def test_requests_survive_the_wire(
    opened: OpenSession, opened_client: OpenClient, request: m.Request, cuts: list[int]
):
    """What a client writes is what the daemon reads, with no byte left over."""
    session = opened(0x64)
    found = None
    for part in pieces(opened_client(0x64).request(request), cuts):
        session.receive_data(part)
        found = found or session.next_request()
    assert found is not None
    assert found[1] == request
    assert session.pending == 0


@settings(max_examples=150)
@given(data=st.binary(max_size=200), code=st.sampled_from([row.code for row in guix.TABLE]))
def test_any_bytes_are_a_request_more_or_an_error(opened: OpenSession, data: bytes, code: int):
    """Nothing but a message, None or RemoteError comes out of the parser."""
    session = opened(0x64)
    session.receive_data(word(code) + data)
    try:
        while session.next_request() is not None:
            session.error("on")
    except RemoteError as error:
        assert error.message  # noqa: PT017 - either outcome is right


def test_logs_and_errors_reach_the_client_in_order(opened: OpenSession, opened_client: OpenClient):
    """Frames written by the daemon's side are read as events by the client's."""
    session, client = opened(0x64), opened_client(0x64)
    session.receive_data(client.request(m.BuildPaths(())))
    session.next_request()
    client.receive_data(session.log(b"a\xff\n") + session.log(b"") + session.error("bad", 100))
    assert client.next_event() == LogText(b"a\xff\n")
    assert client.next_event() == LogText(b"")
    assert client.next_event() == Failed("bad", 100)
