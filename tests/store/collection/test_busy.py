# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeing what processes use."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from store.collection.busy import busy_hash_parts
from store.paths import StorePath

MakePath = Callable[[str], StorePath]


def parts(path: str) -> str:
    """Give the hash part of a path."""
    return path.rpartition("/")[2][:32]


def found_in(directory: Path, store: str) -> set[str]:
    """Give all hash parts that are found."""
    return set().union(*busy_hash_parts(store, str(directory)))


def test_a_running_process_is_seen(make_path: MakePath, tmp_path: Path):
    """By its program, its directory, an open file, and its environment."""
    store = tmp_path / "store"
    paths = [make_path(name) for name in ("program", "directory", "file", "variable")]
    store.mkdir(exist_ok=True)
    os.makedirs(paths[1])
    Path(paths[2]).touch()
    Path(paths[0]).write_bytes(Path("/bin/cat").read_bytes())
    os.chmod(paths[0], 0o755)
    with (
        open(paths[2], "rb") as file,
        subprocess.Popen(
            [paths[0]],
            cwd=paths[1],
            env={"P": f"/bin:{paths[3]}/bin"},
            stdin=subprocess.PIPE,
            stdout=file.fileno(),
        ) as process,
    ):
        seen = set().union(*busy_hash_parts(str(store)))
        process.kill()
    assert {parts(path) for path in paths} <= seen


@pytest.mark.parametrize("offset", range(65536 - 80, 65536 + 8, 7))
def test_a_name_across_two_pieces_is_seen(tmp_path: Path, offset: int):
    """Wherever the pieces of an environment end."""
    process = tmp_path / "1"
    process.mkdir()
    name = b"/gnu/store/" + b"a" * 32 + b"-x"
    (process / "environ").write_bytes(b"=" * offset + name + b"=" * 70_000)
    assert found_in(tmp_path, "/gnu/store") == {"a" * 32}


def test_what_is_no_item_is_no_use(tmp_path: Path):
    """Too short, or in another store; what is no process is not looked into."""
    process = tmp_path / "1"
    process.mkdir()
    texts = [b"/gnu/store/short-x", b"/other/" + b"a" * 32 + b"-x", b"/gnu/store/" + b"b" * 32]
    (process / "environ").write_bytes(b"\0".join(texts))
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "environ").write_bytes(b"/gnu/store/" + b"c" * 32 + b"-x")
    assert found_in(tmp_path, "/gnu/store") == set()
