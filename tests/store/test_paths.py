# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import InvalidPathError
from store.hashes import Digest, HashAlgorithm
from store.nar.events import Content
from store.nar.reader import NarReader
from store.paths import (
    MAX_NAME_LENGTH,
    StoreDirectory,
    StorePath,
    check_name,
    hash_part,
    is_derivation,
    name_of,
)

STORE = StoreDirectory("/gnu/store")
HASH = "k9pad896kygyvpxli7f20bkl9813p9y4"
HELLO = StorePath(f"/gnu/store/{HASH}-hello.txt")

# What an unmodified client added to the reference daemon, and the paths it answered.
ADDITIONS = json.loads((Path(__file__).parent / "data" / "additions.json").read_text())


@pytest.mark.parametrize("text", ADDITIONS["texts"], ids=lambda text: text["name"])
def test_texts_get_the_reference_daemons_paths(text: dict[str, str]):
    """The path of a text follows from its bytes, name and references."""
    digest = hashlib.sha256(text["text"].encode()).digest()
    references = [STORE.parse(reference) for reference in text["references"]]
    assert STORE.text_path(text["name"], digest, references) == text["path"]
    assert STORE.text_path(text["name"], digest, references[::-1] * 2) == text["path"]


@pytest.mark.parametrize("tree", ADDITIONS["trees"], ids=lambda tree: tree["name"])
def test_files_and_trees_get_the_reference_daemons_paths(tree: dict[str, str]):
    """The path of a file or tree follows from its hash, the kind of hash, and its name."""
    archive = bytes.fromhex(tree["nar"])
    recursive = bool(tree["recursive"])
    events = NarReader().feed(archive)
    contents = b"".join(event.data for event in events if isinstance(event, Content))
    algorithm = HashAlgorithm.parse(tree["algorithm"])
    digest = Digest.of(algorithm, archive if recursive else contents)
    assert STORE.fixed_output_path(tree["name"], recursive, digest) == tree["path"]


def test_the_store_directory_is_part_of_the_hash():
    """The same text elsewhere has another hash."""
    elsewhere = StoreDirectory("/nix/store").text_path("a", bytes(32), [])
    assert hash_part(elsewhere) != hash_part(STORE.text_path("a", bytes(32), []))


def test_a_store_path_has_a_hash_part_and_a_name():
    """The parts are found without knowing the directory."""
    assert hash_part(HELLO) == HASH
    assert name_of(HELLO) == "hello.txt"
    assert STORE.join(f"{HASH}-hello.txt") == HELLO


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "/not-a-store-path",
        "/gnu/store",
        "/gnu/store/",
        "/gnu/store/.",
        "/gnu/store/..",
        "/gnu/store/../etc",
        f"/gnu/store/{HASH}-a/b",
        f"/gnu/store/{HASH}-a/",
        f"/gnu/store//{HASH}-a",
        f"/gnu/storefront/{HASH}-a",
        f"/gnu/./store/{HASH}-a",
        f"gnu/store/{HASH}-a",
        f" /gnu/store/{HASH}-a",
    ],
)
def test_paths_elsewhere_are_refused_in_words_clients_know(text: str):
    """What is not directly in the store is "not in the store"."""
    with pytest.raises(InvalidPathError) as caught:
        STORE.parse(text)
    assert str(caught.value) == f"path `{text}' is not in the store"
    assert caught.value.reason == "invalid-path"
    assert not STORE.is_store_path(text)


@pytest.mark.parametrize(
    "name",
    [
        "short",
        HASH,
        f"{HASH}-",
        f"{HASH}-.",
        f"{HASH}-.hidden",
        f"{HASH}-a b",
        f"{HASH}-a\n",
        f"{HASH}-a\0",
        f"{HASH}-é",
        f"{HASH}_a",
        f"{HASH[1:]}-a",
        f"0{HASH}-a",
        f"{'e' * 32}-a",
        f"{HASH.upper()}-a",
        f"{HASH}-{'a' * (MAX_NAME_LENGTH + 1)}",
        ".links",
    ],
)
def test_entries_that_are_no_items_are_refused(name: str):
    """An entry of the store must have hash, dash and name, though a query may speak of others."""
    text = f"/gnu/store/{name}"
    with pytest.raises(InvalidPathError, match="is no hash, dash and name"):
        STORE.parse(text)
    assert not STORE.is_store_path(text)
    assert STORE.names_entry(text)


@pytest.mark.parametrize("text", ["/gnu/store/.", "/gnu/store/..", "/gnu/store/a/b", "/gnu/store/"])
def test_only_a_direct_entry_names_one(text: str):
    """Neither the store, nor its parent, nor what is deeper is an entry."""
    assert not STORE.names_entry(text)


def test_the_item_of_a_longer_path_is_found():
    """Whatever follows the item plays no part."""
    assert STORE.item_of(f"{HELLO}/bin/z") == HELLO
    assert STORE.item_of(f"{HELLO}/") == HELLO
    assert STORE.item_of(HELLO) == HELLO


@pytest.mark.parametrize("text", ["/gnu/store", "/gnu/store/", "/etc/x", "/gnu/store/short/bin"])
def test_a_path_in_no_item_is_refused(text: str):
    """There must be an item to return."""
    with pytest.raises(InvalidPathError):
        STORE.item_of(text)


def test_containment_is_a_matter_of_spelling():
    """A prefix of the directory's name does not count, nor the directory itself."""
    assert STORE.contains(HELLO)
    assert STORE.contains(f"{HELLO}/bin")
    assert not STORE.contains("/gnu/store")
    assert not STORE.contains("/gnu/store/")
    assert not STORE.contains("/gnu/storehouse/x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "invalid name: `' (is empty)"),
        (".", "invalid name: `.' (can't begin with dot)"),
        ("..", "invalid name: `..' (can't begin with dot)"),
        (".profile", "invalid name: `.profile' (can't begin with dot)"),
        ("bad name/slash", "invalid character ` ' in name `bad name/slash'"),
        ("a/b", "invalid character `/' in name `a/b'"),
        ("a\n", "invalid character `\n' in name `a\n'"),
        ("\0", "invalid character `\0' in name `\0'"),
        ("naïve", "invalid character `ï' in name `naïve'"),
        ("a" * 218, f"invalid name: `{'a' * 218}' (longer than 217 characters)"),
    ],
)
def test_names_are_refused_in_the_reference_daemons_words(name: str, message: str):
    """Names reach the file system and every client, so their letters are few."""
    with pytest.raises(InvalidPathError) as caught:
        check_name(name)
    assert str(caught.value) == message
    with pytest.raises(InvalidPathError):
        STORE.text_path(name, bytes(32), [])


@pytest.mark.parametrize("name", ["a", "A-1.0+b_c?d=e", "-x", "a.", "1", "a" * MAX_NAME_LENGTH])
def test_allowed_names_make_paths(name: str):
    """What check_name lets pass, parse lets pass, and a lock file beside it is possible."""
    check_name(name)
    path = STORE.text_path(name, bytes(32), [])
    assert STORE.parse(path) == path
    assert name_of(path) == name
    assert len(Path(f"{path}.lock").name) <= 255


@given(st.text(max_size=12))
def test_parse_and_check_name_agree(name: str):
    """A name is allowed exactly if the path that bears it is."""
    try:
        check_name(name)
    except InvalidPathError:
        assert not STORE.is_store_path(f"/gnu/store/{HASH}-{name}")
    else:
        assert STORE.is_store_path(f"/gnu/store/{HASH}-{name}")


def test_outputs_but_out_have_a_suffix():
    """The default output has the derivation's name alone."""
    assert name_of(STORE.output_path("out", bytes(32), "hello-1.0")) == "hello-1.0"
    assert name_of(STORE.output_path("doc", bytes(32), "hello-1.0")) == "hello-1.0-doc"


def test_fixed_outputs_differ_by_method_and_algorithm():
    """Flat and recursive hashes, and different algorithms, never share a path."""
    sha256 = Digest.of(HashAlgorithm.SHA256, b"x")
    sha3 = Digest.of(HashAlgorithm.SHA3_256, b"x")
    paths = {
        STORE.fixed_output_path("x", recursive, digest)
        for recursive in (False, True)
        for digest in (sha256, sha3)
    }
    assert len(paths) == 4


def test_derivations_are_known_by_their_suffix():
    """Only the end counts."""
    assert is_derivation("/gnu/store/x.drv")
    assert not is_derivation("/gnu/store/x.drv.gz")


@pytest.mark.parametrize("path", ["", "/", "gnu/store", "/gnu/store/", "/gnu//store", "/a/../b"])
def test_a_store_directory_is_absolute_and_plain(path: str):
    """Its spelling is hashed into every path, so there is only one."""
    with pytest.raises(ValueError, match="absolute, plain path"):
        StoreDirectory(path)
