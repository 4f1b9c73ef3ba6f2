# SPDX-License-Identifier: GPL-3.0-or-later
"""A small file is sealed as a walk would seal it, and what is none any more is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import FileError
from store.hashes import Digest, HashAlgorithm
from store.metadata import Canonicaliser
from store.nar.hash import nar_hash_of
from store.sealing.seal import Directories, seal_outputs
from store.sealing.small import SMALL_FILE, is_small, read_canonical
from store.worker.messages import OutputToSeal, SealOutputs


@pytest.fixture
def dirfd(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the test's directory."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("executable", [False, True])
@pytest.mark.parametrize("size", [0, 1, 8, SMALL_FILE - 1, SMALL_FILE, SMALL_FILE + 1])
def test_a_file_is_sealed_by_its_archive(
    dirfd: int, tmp_path: Path, size: int, *, executable: bool
):
    """Of whatever size and mode, with the references in it, and canonical."""
    hashes = ["0" * 32, "1" * 32]
    content = f"{hashes[1]} is used".encode().ljust(size)[:size]
    (tmp_path / "out").write_bytes(content)
    (tmp_path / "out").chmod(0o755 if executable else 0o600)
    output = OutputToSeal("out", "/store/out", None, None, copy=False)
    request = SealOutputs("/store/x.drv", (output,), " ".join(hashes))
    [sealed] = seal_outputs(request, Directories(dirfd, dirfd, None))
    digest = Digest(HashAlgorithm.SHA256, sealed.nar_hash)
    assert (digest, sealed.nar_size) == nar_hash_of(dirfd, "out")
    assert sealed.references == ((hashes[1],) if size > 32 else ())
    status = (tmp_path / "out").lstat()
    assert status.st_mode & 0o7777 == (0o555 if executable else 0o444)
    assert status.st_mtime_ns == 1_000_000_000
    assert is_small(status) is (size <= SMALL_FILE)


@pytest.mark.parametrize("kind", ["large", "link", "directory", "pipe"])
def test_what_is_no_small_file_any_more_is_refused(dirfd: int, tmp_path: Path, kind: str):
    """Somebody may have swapped it since it was looked at; nothing of it is changed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    elsewhere.chmod(0o640)
    out = tmp_path / "out"
    if kind == "large":
        out.write_bytes(bytes(SMALL_FILE + 1))
    elif kind == "link":
        out.symlink_to(elsewhere)
    elif kind == "directory":
        out.mkdir()
    else:
        os.mkfifo(out)
    before = out.lstat().st_mode
    with pytest.raises((FileError, OSError)):
        read_canonical(dirfd, "out", "/store/out", Canonicaliser())
    assert out.lstat().st_mode == before
    assert elsewhere.stat().st_mode & 0o7777 == 0o640
