# SPDX-License-Identifier: GPL-3.0-or-later

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from store.errors import FileError
from store.hashes import Digest, HashAlgorithm
from store.nar.hash import nar_hash_of


@pytest.mark.usefixtures("no_leaks")
def test_a_trees_hash_is_that_of_its_archive(
    tmp_path: Path, directory: int, make: Any, archive_of: Any, sample: Any
):
    """With its size, and by any algorithm."""
    make(tmp_path / "tree", sample)
    archive = archive_of(sample)
    digest = Digest(HashAlgorithm.SHA256, hashlib.sha256(archive).digest())
    assert nar_hash_of(directory, "tree") == (digest, len(archive))
    digest = Digest(HashAlgorithm.SHA1, hashlib.sha1(archive).digest())
    assert nar_hash_of(directory, "tree", HashAlgorithm.SHA1) == (digest, len(archive))


@pytest.mark.skipif(shutil.which("nix-hash") is None, reason="needs nix-hash, of Debian's nix-bin")
def test_another_implementation_agrees(tmp_path: Path, directory: int, make: Any, sample: Any):
    """Nix hashes the same tree to the same value, in both bases."""
    make(tmp_path / "tree", {**sample, b"large": os.urandom(1_000_000)})
    digest, _ = nar_hash_of(directory, "tree")
    command = ["nix-hash", "--type", "sha256", tmp_path / "tree"]
    for base, text in ([], digest.base16), (["--base32"], digest.base32):
        result = subprocess.run([*command, *base], capture_output=True, check=True, text=True)
        assert result.stdout.strip() == text


@pytest.mark.usefixtures("no_leaks")
def test_a_tree_that_has_no_archive_has_no_hash(tmp_path: Path, directory: int):
    """The fault is named as for a dump."""
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "pipe")
    with pytest.raises(FileError, match="`tree/pipe' has an unsupported type"):
        nar_hash_of(directory, "tree")
