# SPDX-License-Identifier: GPL-3.0-or-later
"""Making and checking signatures, in the form that Guix gives them.

A signature is ``(signature (data (flags F) (hash sha256 H)) (sig-val …) KEY)``.
One of any other shape is refused before libgcrypt looks at it: what is returned
as the signed hash must be what was verified. The texts of errors are those of
``guix authenticate``, which clients match.
"""

from dataclasses import dataclass

from store.errors import StoreError
from store.signatures import canonical
from store.signatures.acl import PUBLIC_KEY
from store.signatures.canonical import Expression
from store.signatures.gcrypt import Gcrypt, Spelling

HASH_SIZE = 32

# How the hash is padded, or the nonce is made, by the kind of key.
_FLAGS = {b"rsa": b"pkcs1", b"ecc": b"rfc6979", b"ecdsa": b"rfc6979", b"dsa": b"rfc6979"}


class SignatureError(StoreError):
    """A signature that does not vouch for what it came with."""

    default_reason = "bad-signature"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves of a key, parsed."""

    public: Expression
    secret: Expression


def read_expression(gcrypt: Gcrypt, text: bytes) -> Expression:
    """Read an expression in any spelling.

    Raises:
        CryptoError: It is none.
    """
    return canonical.parse(gcrypt.respell(text, Spelling.CANONICAL))


def write_expression(gcrypt: Gcrypt, expression: Expression) -> bytes:
    """Write an expression for people, as Guix's files have it."""
    return gcrypt.respell(canonical.encode(expression), Spelling.ADVANCED)


def sign(gcrypt: Gcrypt, keys: KeyPair, digest: bytes) -> bytes:
    """Sign a sha256.

    Raises:
        CryptoError: The keys are none.
    """
    data: Expression = [b"data", [b"flags", _flags(keys.public)], [b"hash", b"sha256", digest]]
    value = gcrypt.sign(canonical.encode(data), canonical.encode(keys.secret))
    signature: Expression = [b"signature", data, canonical.parse(value), keys.public]
    return write_expression(gcrypt, signature)


def _flags(public: Expression) -> bytes:
    match public:
        case [b"public-key", [bytes() as kind, *_]] if kind in _FLAGS:
            return _FLAGS[kind]
    raise StoreError("unknown type of public key", reason="invalid-key")


def verify(gcrypt: Gcrypt, authorized: list[Expression], text: bytes) -> bytes:
    """Check a signature; give the sha256 that it signs.

    Args:
        gcrypt: The library.
        authorized: The keys that may sign.
        text: The signature, in any spelling.

    Raises:
        SignatureError: It is no signature, or by a key that may not sign, or false.
    """
    try:
        signature = read_expression(gcrypt, text)
    except StoreError as error:
        raise SignatureError(f"corrupt signature data: {error.message}") from error
    match signature:
        case [
            b"signature",
            [
                b"data",
                [b"flags", b"rfc6979" | b"pkcs1"],
                [b"hash", b"sha256", bytes() as digest],
            ] as data,
            [b"sig-val", *_] as value,
            [b"public-key", *_] as key,
        ] if len(digest) == HASH_SIZE:
            _check_key(gcrypt, authorized, key)
            _check_value(gcrypt, signature, (value, data, key))
            return digest
    raise SignatureError(f"corrupt signature data: {_shown(gcrypt, signature)}")


def _check_key(gcrypt: Gcrypt, authorized: list[Expression], key: Expression) -> None:
    if key not in authorized:
        raise SignatureError(f"unauthorized public key: {_shown(gcrypt, key)}")


def _check_value(
    gcrypt: Gcrypt, signature: Expression, parts: tuple[Expression, Expression, Expression]
) -> None:
    try:
        if gcrypt.verify(*map(canonical.encode, parts)):
            return
    except StoreError as error:
        raise SignatureError(f"invalid signature: {error.message}") from error
    raise SignatureError(f"invalid signature: {_shown(gcrypt, signature)}")


def _shown(gcrypt: Gcrypt, expression: Expression) -> str:
    return write_expression(gcrypt, expression).decode("latin-1")


def public_key(gcrypt: Gcrypt, text: bytes) -> Expression:
    """Read a public key.

    Raises:
        StoreError: It is none.
    """
    key = read_expression(gcrypt, text)
    if not isinstance(key, list) or key[:1] != [PUBLIC_KEY]:
        raise StoreError("s-expression does not denote a public key", reason="invalid-key")
    return key
