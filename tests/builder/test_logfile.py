# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs lie where clients look, in the form their names promise."""

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.logfile import PIECE, LogFile, find_log, log_file_name
from builder.options import LogCompression

if TYPE_CHECKING:
    from tests.builder.conftest import MakePath

READERS: dict[LogCompression, Callable[[bytes], bytes]] = {
    LogCompression.GZIP: gzip.decompress,
    LogCompression.BZIP2: bz2.decompress,
    LogCompression.NONE: bytes,
}


@pytest.mark.parametrize("compression", list(LogCompression))
async def test_what_was_written_is_read_back(
    tmp_path: Path, path: "MakePath", compression: LogCompression
):
    """Small pieces and pieces beyond the buffer end up in one stream."""
    drv = path("demo.drv")
    pieces = [b"hello\n", os.urandom(3 * PIECE), b"", b"end\n"]
    log = LogFile.create(str(tmp_path), drv, compression)
    for piece in pieces:
        await log.write(piece)
    await log.close()
    assert log.path == find_log(str(tmp_path), drv)
    assert READERS[compression](Path(log.path).read_bytes()) == b"".join(pieces)


async def test_a_silent_builder_leaves_a_complete_empty_log(tmp_path: Path, path: "MakePath"):
    """An empty log is a valid compressed file."""
    log = LogFile.create(str(tmp_path), path("demo.drv"), LogCompression.GZIP)
    await log.close()
    await log.close()
    assert gzip.decompress(Path(log.path).read_bytes()) == b""


async def test_a_new_log_replaces_the_old_one(tmp_path: Path, path: "MakePath"):
    """The log is that of the last build."""
    for text in (b"first and longer", b"second"):
        log = LogFile.create(str(tmp_path), path("demo.drv"), LogCompression.NONE)
        await log.write(text)
        await log.close()
    assert Path(log.path).read_bytes() == b"second"


def test_the_name_splits_off_two_characters(path: "MakePath"):
    """So that no directory holds all logs."""
    base = path("demo.drv").rpartition("/")[2]
    name = log_file_name("/var/log/guix", path("demo.drv"), LogCompression.GZIP)
    assert name == f"/var/log/guix/drvs/{base[:2]}/{base[2:]}.gz"
