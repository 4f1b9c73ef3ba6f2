# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of ``guix substitute``: what is understood, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.substitution.offers import Offer, Sources, substitute_urls
from builder.substitution.protocol import (
    Fetched,
    LineSplitter,
    Mismatch,
    NotFetched,
    OfferReader,
    Progress,
    SubstituteProtocolError,
    info_request,
    options_text,
    parse_outcome,
    parse_progress,
)
from store.errors import StoreError
from store.hashes import Digest, HashAlgorithm
from store.paths import StoreDirectory, StorePath

STORE = StoreDirectory("/gnu/store")


def item(number: int) -> StorePath:
    """Return the path of a numbered item."""
    return STORE.join(f"{number:032d}-item")


def record(offer: Offer) -> list[str]:
    """Write an offer as the program does."""
    references = sorted(offer.references)
    sizes = [str(offer.download_size), str(offer.nar_size)]
    return [offer.path, offer.deriver or "", str(len(references)), *references, *sizes]


SIZES = st.integers(0, 2**63 - 1)
ITEMS = st.integers(0, 99).map(item)
OFFERS = st.dictionaries(
    ITEMS, st.tuples(st.none() | ITEMS, st.frozensets(ITEMS, max_size=5), SIZES, SIZES)
)


@given(OFFERS)
def test_what_a_program_writes_is_read(drawn: dict[StorePath, tuple]):  # type: ignore[type-arg]
    """Any offers, in any order, to the empty line."""
    offers = {path: Offer(path, *rest) for path, rest in drawn.items()}
    reader = OfferReader(STORE, [*offers, item(100)])
    for offer in offers.values():
        for line in record(offer):
            assert not reader.done
            reader.feed(line)
    reader.feed("")
    assert reader.done
    assert reader.offers == offers


@given(st.lists(st.text(max_size=80)))
def test_nonsense_is_an_error_of_its_own_kind(lines: list[str]):
    """Whatever comes, nothing but a protocol's error comes out."""
    reader = OfferReader(STORE, [item(1)])
    try:
        for line in [item(1), *lines]:
            reader.feed(line)
    except SubstituteProtocolError:
        pass
    assert set(reader.offers) <= {item(1)}


def test_only_what_was_asked_for_is_taken_and_once():
    """A program cannot offer anything else."""
    offer = Offer(item(1), None, frozenset(), 1, 2)
    reader = OfferReader(STORE, [item(1)])
    for line in record(offer):
        reader.feed(line)
    for path in (item(1), item(2)):
        with pytest.raises(SubstituteProtocolError, match="unexpected path"):
            reader.feed(path)


def test_absurd_numbers_of_references_are_refused_at_once():
    """Before anything is waited for or kept."""
    reader = OfferReader(STORE, [item(1)])
    for line in (item(1), ""):
        reader.feed(line)
    with pytest.raises(SubstituteProtocolError, match="integer expected"):
        reader.feed("1000000000")


def test_outcomes():
    """Three kinds; hashes are in base 32, as in narinfos, or base 16."""
    digest = Digest.of(HashAlgorithm.SHA256, b"x")
    assert parse_outcome(f"success sha256:{digest.base32} 17") == Fetched(digest)
    assert parse_outcome(f"success sha256:{digest.base16} 17") == Fetched(digest)
    assert parse_outcome("hash-mismatch sha256 a b") == Mismatch("sha256", "a", "b")
    assert parse_outcome("not-found") == NotFetched()
    for line in ("", "success", "success sha256:abc 1", "success md6:00 1", "not-found x"):
        with pytest.raises(StoreError):
            parse_outcome(line)


def test_settings_that_would_forge_others_are_left_out():
    """A value with a newline could say anything for the next setting."""
    pairs = [("a", "1"), ("b", "2\nsubstitute-urls=evil"), ("c=d", "3"), ("e", "x=y")]
    assert options_text(pairs) == "a=1\ne=x=y\n"


def test_sources_are_the_settings_that_matter():
    """Terminals do not part clients that ask, only those that download."""
    one = Sources.of({"substitute-urls": "u", "terminal-columns": "80", "build-cores": "3"})
    two = Sources.of({"terminal-columns": "90", "substitute-urls": "u"})
    assert one.query == two.query == (("substitute-urls", "u"),)
    assert one.download != two.download


def test_a_client_s_own_urls_win():
    """Even an untrusted one's: where is looked is no matter of trust."""
    settings = {"substitute-urls": "a b", "untrusted-substitute-urls": "c"}
    assert substitute_urls(settings) == ["c"]
    assert substitute_urls({**settings, "untrusted-substitute-urls": ""}) == ["a", "b"]
    assert substitute_urls({}) == []


def test_progress_is_read_from_traces():
    """A size may be unknown."""
    assert parse_progress(b"@ download-started f u -\n") == Progress("started", "u", None, 0)
    assert parse_progress(b"@ download-progress f u 9 4\n") == Progress("progress", "u", 9, 4)
    assert parse_progress(b"@ download-succeeded f u 9\n") == Progress("succeeded", "u", 9, 9)
    assert parse_progress(b"downloading f\n") is None


@given(st.lists(st.binary(max_size=20)))
def test_lines_lose_nothing(pieces: list[bytes]):
    """However the bytes come, they leave in the same order, cut at ends of lines."""
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    assert b"".join(lines) + splitter.rest() == b"".join(pieces)
    assert all(line.endswith((b"\n", b"\r")) for line in lines)


def test_a_question_is_one_line():
    """The program reads lines."""
    assert info_request([item(1), item(2)]) == f"info {item(1)} {item(2)}\n".encode()
