# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs lie where clients look, in the form their names promise."""

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from builder import logfile
from builder.logfile import PIECE, LogFiles, find_log, log_file_name
from builder.options import LogCompression
from storedaemon.operations.buildlogs import _decompress

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
    log = LogFiles(str(tmp_path), compression).create(drv)
    for piece in pieces:
        await log.write(piece)
    await log.close()
    assert log.path == find_log(str(tmp_path), drv)
    assert READERS[compression](Path(log.path).read_bytes()) == b"".join(pieces)


async def test_a_silent_builder_leaves_a_complete_empty_log(tmp_path: Path, path: "MakePath"):
    """An empty log is a valid compressed file."""
    log = LogFiles(str(tmp_path), LogCompression.GZIP).create(path("demo.drv"))
    await log.close()
    await log.close()
    assert gzip.decompress(Path(log.path).read_bytes()) == b""


async def test_a_new_log_replaces_the_old_one(tmp_path: Path, path: "MakePath"):
    """The log is that of the last build."""
    for text in (b"first and longer", b"second"):
        log = LogFiles(str(tmp_path), LogCompression.NONE).create(path("demo.drv"))
        await log.write(text)
        await log.close()
    assert Path(log.path).read_bytes() == b"second"


def test_the_name_splits_off_two_characters(path: "MakePath"):
    """So that no directory holds all logs."""
    base = path("demo.drv").rpartition("/")[2]
    name = log_file_name("/var/log/guix", path("demo.drv"), LogCompression.GZIP)
    assert name == f"/var/log/guix/drvs/{base[:2]}/{base[2:]}.gz"


@pytest.mark.parametrize("compression", list(LogCompression))
async def test_what_is_printed_can_be_read_before_the_end(
    tmp_path: Path,
    path: "MakePath",
    compression: LogCompression,
    monkeypatch: pytest.MonkeyPatch,
):
    """A little later, piece by piece, and the file is whole at the end."""
    monkeypatch.setattr(logfile, "SYNC_SECONDS", 0.05)
    logs = LogFiles(str(tmp_path), compression)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        log = logs.create(path("demo.drv"))
        for expected in (b"one\n", b"one\ntwo\n"):
            await log.write(expected[-4:])
            with trio.fail_after(10):
                while as_far_as_written(log.path) != expected:
                    await trio.sleep(0.01)
        await log.write(b"end\n")
        await log.close()
        nursery.cancel_scope.cancel()
    assert READERS[compression](Path(log.path).read_bytes()) == b"one\ntwo\nend\n"


def as_far_as_written(name: str) -> bytes:
    """Read a log as its readers do."""
    with open(name, "rb") as file:
        return b"".join(_decompress(file.fileno(), name))


async def test_output_while_a_log_is_made_readable_is_not_lost(tmp_path: Path, path: "MakePath"):
    """Nor does it change places."""
    logs = LogFiles(str(tmp_path), LogCompression.GZIP)
    log = logs.create(path("demo.drv"))
    pieces = [os.urandom(PIECE // 3) for _ in range(60)]

    async def sync() -> None:
        while True:
            await log.sync()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync)
        for piece in pieces:
            await log.write(piece)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await log.close()
    assert gzip.decompress(Path(log.path).read_bytes()) == b"".join(pieces)


async def test_an_error_on_the_way_is_the_builds(tmp_path: Path, path: "MakePath"):
    """Nobody else learns of it, and the log is not taken for whole."""
    logs = LogFiles(str(tmp_path), LogCompression.NONE)
    log = logs.create(path("demo.drv"))
    await log.write(b"hello\n")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._fd)
    os.close(full)
    await log.sync()
    with pytest.raises(OSError, match="No space left"):
        await log.write(b"more\n")
    with pytest.raises(OSError, match="No space left"):
        await log.close()
