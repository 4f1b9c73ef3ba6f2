# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that signs and verifies as ``guix authenticate`` does, where there is no Guix.

It answers requests on standard input until that ends. Files of keys are read
anew for each request, so that a key that was withdrawn counts no more. What is
verified comes from anybody: a fault in a parser costs this process, which has
neither threads nor rights beyond reading the keys. Entry point: `main`, which
``python -m store.signatures CONFIGURATION-DIRECTORY`` runs.
"""

import os
from collections.abc import Sequence

import prctl

from store.errors import StoreError
from store.signatures import keyring, protocol
from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import HASH_SIZE, sign, verify
from store.signatures.protocol import Reply, Request, RequestReader

_BLOCK = 65536

# A daemon under root may have keys that belong to the store's owner.
_KEPT_CAPABILITY = prctl.CAP_DAC_READ_SEARCH


def main(arguments: Sequence[str]) -> int:
    """Answer requests until there are no more; give the exit code."""
    (configuration,) = arguments
    _drop_privileges()
    reader = RequestReader()
    while data := os.read(0, _BLOCK):
        for request in reader.feed(data):
            _send(_answer(configuration, request).encode())
    return int(reader.pending)


def _drop_privileges() -> None:
    kept = [_KEPT_CAPABILITY] if prctl.cap_permitted.dac_read_search else []
    prctl.set_name("authenticate")
    prctl.set_no_new_privs(True)
    prctl.set_dumpable(False)
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit(*kept)
    prctl.cap_permitted.limit(*kept)


def _answer(configuration: str, request: Request) -> Reply:
    try:
        match request:
            case Request("sign", (key_file, digest)):
                return Reply(protocol.SUCCESS, _sign(os.fsdecode(key_file), digest.decode()))
            case Request("verify", (signature,)):
                return Reply(protocol.SUCCESS, _verify(configuration, signature))
    except (StoreError, OSError, ValueError) as error:
        text = error.message if isinstance(error, StoreError) else str(error)
        return Reply(protocol.COMMAND_FAILED, text.encode("latin-1", "replace"))
    return Reply(protocol.COMMAND_NOT_FOUND, b"invalid command")


def _sign(key_file: str, digits: str) -> bytes:
    digest = bytes.fromhex(digits)
    if len(digest) != HASH_SIZE:
        raise ValueError(f"a hash of {len(digest)} bytes is no sha256")
    gcrypt = Gcrypt.load()
    return sign(gcrypt, keyring.load_pair(gcrypt, key_file), digest)


def _verify(configuration: str, signature: bytes) -> bytes:
    gcrypt = Gcrypt.load()
    return verify(gcrypt, keyring.authorized(gcrypt, configuration), signature).hex().encode()


def _send(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
