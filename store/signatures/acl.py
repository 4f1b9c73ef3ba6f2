# SPDX-License-Identifier: GPL-3.0-or-later
"""The access-control list: the keys whose signatures let items be imported; pure.

It is ``(acl (entry KEY (tag (guix import))) …)``, in the form of SPKI that Guix
uses. A list with anything else in it is refused as a whole, since nobody could
say whom its author meant to trust.
"""

from collections.abc import Iterable

from store.errors import StoreError
from store.signatures.canonical import Expression

_IMPORT: Expression = [b"tag", [b"guix", b"import"]]
PUBLIC_KEY = b"public-key"


def authorized_keys(acl: Expression) -> list[Expression]:
    """Give the keys on a list, in order.

    Raises:
        StoreError: It is no such list.
    """
    match acl:
        case [b"acl", *entries]:
            return [_key(entry) for entry in entries]
    raise _invalid()


def _key(entry: Expression) -> Expression:
    match entry:
        case [b"entry", [b"public-key", *_] as key, tag] if tag == _IMPORT:
            return key
    raise _invalid()


def make_acl(keys: Iterable[Expression]) -> Expression:
    """Make the list that has these keys, each once."""
    chosen: list[Expression] = []
    for key in keys:
        if key not in chosen:
            chosen.append(key)
    return [b"acl", *([b"entry", key, _IMPORT] for key in chosen)]


def _invalid() -> StoreError:
    return StoreError("invalid access-control list", reason="invalid-acl")
