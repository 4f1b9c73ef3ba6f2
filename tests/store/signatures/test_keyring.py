# SPDX-License-Identifier: GPL-3.0-or-later
"""Key files and the access-control list."""

import os
import threading
from pathlib import Path

import pytest

from store.errors import StoreError
from store.signatures import keyring
from store.signatures.acl import authorized_keys, make_acl
from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import KeyPair, write_expression

ACL_OF_GUIX = b"""(acl
 (entry
  (public-key
   (ecc
    (curve Ed25519)
    (q #8D156F295D24B0D9A86FA5741A840FF2D24F60F7B6C4134814AD55625971B394#)
    )
   )
  (tag
   (guix import)
   )
  )
 )
"""


def new_key(gcrypt: Gcrypt, directory: Path) -> bytes:
    """Make a key pair somewhere; give the text of its public half."""
    keyring.generate(gcrypt, str(directory), None)
    return (directory / "signing-key.pub").read_bytes()


def test_a_new_pair_has_the_files_of_guix(etc: Path):
    """Their names, their modes, their form; and an old pair is not overwritten."""
    assert sorted(os.listdir(etc)) == ["signing-key.pub", "signing-key.sec"]
    assert (etc / "signing-key.sec").stat().st_mode & 0o777 == 0o400
    assert (etc / "signing-key.pub").stat().st_mode & 0o777 == 0o444
    public = (etc / "signing-key.pub").read_text().split()
    assert public[:4] == ["(public-key", "(ecc", "(curve", "Ed25519)"]
    secret = (etc / "signing-key.sec").read_bytes()
    with pytest.raises(StoreError, match=r"key pair exists under '.*'; remove it first"):
        keyring.generate(Gcrypt.load(), str(etc), None)
    assert (etc / "signing-key.sec").read_bytes() == secret


def test_without_a_list_only_the_own_key_counts(gcrypt: Gcrypt, etc: Path, pair: KeyPair):
    """Or no key at all."""
    assert keyring.authorized(gcrypt, str(etc)) == [pair.public]
    assert keyring.authorized(gcrypt, str(etc / "nowhere")) == []


def test_a_list_of_guix_is_read(gcrypt: Gcrypt, etc: Path, pair: KeyPair):
    """And then the own key counts only if it is on it."""
    (etc / "acl").write_bytes(ACL_OF_GUIX)
    (key,) = keyring.authorized(gcrypt, str(etc))
    assert key != pair.public
    assert write_expression(gcrypt, make_acl([key, key])).split() == ACL_OF_GUIX.split()


def test_a_key_is_accepted_once(gcrypt: Gcrypt, etc: Path, pair: KeyPair, tmp_path: Path):
    """The own key stays accepted; a second time changes nothing."""
    text = new_key(gcrypt, tmp_path / "other")
    assert keyring.authorize(gcrypt, str(etc), text)
    keys = keyring.authorized(gcrypt, str(etc))
    assert (len(keys), keys[1]) == (2, pair.public)
    assert (etc / "acl").stat().st_mode & 0o777 == 0o644
    before = (etc / "acl").stat().st_ino
    assert not keyring.authorize(gcrypt, str(etc), text)
    assert (etc / "acl").stat().st_ino == before
    assert len(os.listdir(etc)) == 3


def test_the_own_key_can_be_accepted_alone(gcrypt: Gcrypt, etc: Path, pair: KeyPair):
    """The list is made although the key counts without one."""
    text = (etc / "signing-key.pub").read_bytes()
    assert not keyring.authorize(gcrypt, str(etc), text)
    assert keyring.authorized(gcrypt, str(etc)) == [pair.public]
    assert (etc / "acl").exists()


def test_a_link_is_replaced_by_a_list(gcrypt: Gcrypt, etc: Path, tmp_path: Path):
    """What it led to, perhaps in the store, stays as it is."""
    target = tmp_path / "target"
    target.write_bytes(ACL_OF_GUIX)
    (etc / "acl").symlink_to(target)
    keyring.authorize(gcrypt, str(etc), new_key(gcrypt, tmp_path / "other"))
    assert target.read_bytes() == ACL_OF_GUIX
    assert not (etc / "acl").is_symlink()
    assert len(keyring.authorized(gcrypt, str(etc))) == 2


def test_keys_accepted_at_once_are_all_accepted(gcrypt: Gcrypt, etc: Path, tmp_path: Path):
    """Nobody's change is lost to another's."""
    texts = [new_key(gcrypt, tmp_path / str(number)) for number in range(6)]
    threads = [
        threading.Thread(target=keyring.authorize, args=(gcrypt, str(etc), text)) for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keyring.authorized(gcrypt, str(etc))) == 7


def test_what_is_no_key_changes_nothing(gcrypt: Gcrypt, etc: Path):
    """Neither a list nor anything else is left."""
    for text in (b"", b"(acl)", b"x"):
        with pytest.raises(StoreError):
            keyring.authorize(gcrypt, str(etc), text)
    assert len(os.listdir(etc)) == 2


@pytest.mark.parametrize(
    "text",
    [
        b"(x)",
        b"(acl (entry (public-key (ecc)) (tag (guix export))))",
        b"(acl (entry (private-key (ecc)) (tag (guix import))))",
        b"(acl (entry (public-key (ecc)) (tag (guix import)) (valid)))",
        b"(acl (public-key (ecc)))",
        b"(acl",
    ],
)
def test_a_list_that_says_something_else_counts_for_nothing(gcrypt: Gcrypt, etc: Path, text: bytes):
    """Not even what could be understood of it; the error names the file."""
    (etc / "acl").write_bytes(text)
    with pytest.raises(StoreError, match=r"in `.*/etc/acl'") as caught:
        keyring.authorized(gcrypt, str(etc))
    assert caught.value.reason == "invalid-acl"


def test_an_empty_list_accepts_nobody():
    """It is a list all the same."""
    assert authorized_keys([b"acl"]) == []


def test_a_pair_that_is_absent_is_named(gcrypt: Gcrypt, tmp_path: Path):
    """In the words of Guix."""
    file = tmp_path / "signing-key.sec"
    with pytest.raises(StoreError, match=f"failed to load key pair at '{file}': No such file"):
        keyring.load_pair(gcrypt, str(file))
