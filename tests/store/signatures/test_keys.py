# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures: made, checked, and refused."""

import hashlib

import pytest

from store.errors import StoreError
from store.signatures import canonical
from store.signatures.gcrypt import CryptoError, Gcrypt, Spelling
from store.signatures.keys import (
    KeyPair,
    SignatureError,
    public_key,
    read_expression,
    sign,
    verify,
)

DIGEST = hashlib.sha256(b"what is signed").digest()

# What the C++ daemon answered to an export, by way of `guix authenticate`.
RECORDED = """(signature
 (data
  (flags rfc6979)
  (hash sha256 #DD7E17074E601C245A0C5E8B1ED2B3C2914D16B96FE846C93537EDBA46EC5F25#))
 (sig-val
  (ecdsa
   (r #07B4F871BEB8DB6DD73D27FB64CC402D274BE8B184A73173CFCF2C69ABA50031#)
   (s #03487E9ECD49791C95FA4785CD599473BADC58BFF8763315B72E9DCE65587410#)))
 (public-key
  (ecc
   (curve Ed25519)
   (q #DEA0936FCB4FB31E5CB41B5149B6092BFC09222CF14D7FB70011CA4F9F505CC6#))))"""


def respelt(gcrypt: Gcrypt, expression: canonical.Expression) -> bytes:
    """Write an expression as a client may send it."""
    return gcrypt.respell(canonical.encode(expression), Spelling.ADVANCED)


def test_a_signature_of_guix_is_good(gcrypt: Gcrypt):
    """One that was recorded verifies, and gives the hash that it signs."""
    key = read_expression(gcrypt, RECORDED.encode())[3]
    found = verify(gcrypt, [key], RECORDED.encode())
    assert found.hex().upper() == RECORDED.split("#")[1]


def test_what_is_signed_verifies(gcrypt: Gcrypt, pair: KeyPair):
    """In the shape that Guix gives signatures, always the same for the same hash."""
    signature = sign(gcrypt, pair, DIGEST)
    assert sign(gcrypt, pair, DIGEST) == signature
    assert verify(gcrypt, [pair.public], signature) == DIGEST
    text = signature.decode()
    assert text.startswith("(signature \n (data \n  (flags rfc6979)\n  (hash sha256 #")
    assert text.replace(" ", "").replace("\n", "").count("(public-key(ecc(curveEd25519)(q#") == 1


def test_rsa_keys_sign_too(gcrypt: Gcrypt):
    """Old keys of Guix are such."""
    made = read_expression(gcrypt, gcrypt.generate_key(b"(genkey (rsa (nbits 4:1024)))"))
    public, secret = made[1], made[2]
    signature = sign(gcrypt, KeyPair(public, secret), DIGEST)
    assert b"(flags pkcs1)" in signature
    assert verify(gcrypt, [public], signature) == DIGEST


def test_a_key_that_may_not_sign_is_named(gcrypt: Gcrypt, pair: KeyPair):
    """In the words that clients match."""
    with pytest.raises(SignatureError, match=r"^unauthorized public key: \(public-key") as caught:
        verify(gcrypt, [], sign(gcrypt, pair, DIGEST))
    assert caught.value.reason == "bad-signature"


def test_a_signature_of_something_else_is_invalid(gcrypt: Gcrypt, pair: KeyPair):
    """The hash was exchanged, or the values were."""
    signature = read_expression(gcrypt, sign(gcrypt, pair, DIGEST))
    other = read_expression(gcrypt, sign(gcrypt, pair, bytes(32)))
    for forged in (
        [*signature[:1], other[1], *signature[2:]],
        [*signature[:2], other[2], *signature[3:]],
        [*signature[:2], [b"sig-val", [b"rsa", [b"s", b"1"]]], *signature[3:]],
    ):
        with pytest.raises(SignatureError, match=r"^invalid signature: "):
            verify(gcrypt, [pair.public], respelt(gcrypt, forged))


def test_other_shapes_are_corrupt(gcrypt: Gcrypt, pair: KeyPair):
    """What is verified and what is returned could differ in them."""
    good = read_expression(gcrypt, sign(gcrypt, pair, DIGEST))
    data, value, key = good[1:]
    fake = [b"hash", b"sha256", bytes(32)]
    for bad in (
        [b"signature", [*data[:2], fake, data[2]], value, key],
        [b"signature", [data[0], [b"flags", b"raw"], data[2]], value, key],
        [b"signature", [*data[:2], [b"hash", b"sha1", DIGEST]], value, key],
        [b"signature", [*data[:2], [b"hash", b"sha256", DIGEST[:20]]], value, key],
        [b"signature", data, value],
        [b"signature", data, value, key, key],
        [b"x", good],
        [b"signature"],
    ):
        with pytest.raises(SignatureError, match=r"^corrupt signature data: "):
            verify(gcrypt, [pair.public], respelt(gcrypt, bad))
    for text in (b"", b"(", b"\0", b"(" * 100 + b"a" + b")" * 100):
        with pytest.raises(SignatureError, match=r"^corrupt signature data: "):
            verify(gcrypt, [pair.public], text)


def test_what_is_no_public_key_is_refused(gcrypt: Gcrypt, pair: KeyPair):
    """The secret one above all."""
    for text in (b"(acl)", respelt(gcrypt, pair.secret)):
        with pytest.raises(StoreError, match="does not denote a public key"):
            public_key(gcrypt, text)
    with pytest.raises(CryptoError, match="bad s-expression"):
        public_key(gcrypt, b"(((")


def test_without_the_library_the_error_says_so():
    """And which package has it."""
    with pytest.raises(CryptoError, match=r"signatures need libgcrypt \(the package libgcrypt20"):
        Gcrypt.load("libgcrypt-absent.so.20")
