# SPDX-License-Identifier: GPL-3.0-or-later
"""The library, and keys in Guix's format."""

from pathlib import Path

import pytest

from store.signatures import keyring
from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import KeyPair


@pytest.fixture(scope="session")
def gcrypt() -> Gcrypt:
    """The system's libgcrypt."""
    return Gcrypt.load()


@pytest.fixture
def etc(tmp_path: Path, gcrypt: Gcrypt) -> Path:
    """A configuration directory with a key pair, and no access-control list."""
    directory = tmp_path / "etc"
    keyring.generate(gcrypt, str(directory), None)
    return directory


@pytest.fixture
def pair(etc: Path, gcrypt: Gcrypt) -> KeyPair:
    """The key pair."""
    return keyring.load_pair(gcrypt, str(etc / "signing-key.sec"))
