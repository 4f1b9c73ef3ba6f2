# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds with more inputs than there should be mounts."""

import os
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from builder import users
from builder.users import BuildUser
from builder.views import VIEW_FROM
from store.database import NewItem
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.nar.hash import nar_hash_of
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

pytestmark = [pytest.mark.root, pytest.mark.slow]

BUILD_USERS = [BuildUser(f"builder{uid}", uid, 30100, (30100,)) for uid in (30101, 30102)]


@pytest.fixture(autouse=True)
def build_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build users that the machine need not have."""
    monkeypatch.setattr(users, "members", lambda _group: BUILD_USERS)


async def sources(yard: "Yard", count: int = VIEW_FROM) -> list[StorePath]:
    """Put many items into the store, files and directories in turn, and register them at once."""
    items = []
    fd = os.open(yard.layout.store, os.O_RDONLY)
    for number in range(count):
        name = f"source-{number}"
        path = yard.directory.text_path(name, sha256(name.encode()).digest(), ())
        file = Path(path)
        if number % 2:
            file.mkdir()
            file /= "file"
        file.write_text(f"{number}\n")
        for each in {file, Path(path)}:
            os.chmod(each, 0o555 if each.is_dir() else 0o444)
            os.utime(each, (1, 1))
        digest, size = nar_hash_of(fd, path.rpartition("/")[2])
        items.append(NewItem(PathInfo(path, digest, size, frozenset())))
    os.close(fd)
    await yard.database.register(items)
    return [item.info.path for item in items]


async def test_a_build_sees_all_its_inputs_and_nothing_else(open_yard: "OpenYard"):
    """Through one mount; what it makes is as it is elsewhere."""
    async with open_yard(build_users_group="builders") as yard:
        yard.base.chmod(0o755)
        inputs = await sources(yard)
        hidden = await yard.add_text("hidden", b"secret")
        script = (
            f"test ! -e {hidden}; grep -c $NIX_STORE /proc/self/mountinfo; cd $NIX_STORE;"
            "cat *-source-*[02468] *-source-*[13579]/file | wc -l; ls | wc -l;"
            f"mkdir -p temporary/deep; mv temporary $out; cp {inputs[0]} $out/deep/copy;"
            f"ln -s {inputs[1]} $out/link; ! touch {inputs[1]}/new; ! rm -f {inputs[0]}"
        )
        drv = await yard.add_derivation(script, sources=inputs)
        await yard.build(drv)
        mounts, files, entries = map(int, yard.log().split("\n")[:3])
        assert (mounts, files, entries) == (1, VIEW_FROM, VIEW_FROM + 1)
        out = yard.output(drv)
        assert yard.database.path_info(out).references == {inputs[1]}
        assert Path(out, "deep", "copy").read_text() == "0\n"
        for directory in (out, f"{out}/deep"):
            assert os.listxattr(directory) == []
            assert os.stat(directory).st_uid == 0
        assert Path(inputs[0]).read_text() == "0\n"
        await nothing_left(yard)


async def test_fixed_outputs_and_checks_work_likewise(open_yard: "OpenYard"):
    """They take other ways to their outputs."""
    async with open_yard(build_users_group="builders") as yard:
        yard.base.chmod(0o755)
        inputs = await sources(yard)
        digest = Digest(HashAlgorithm.SHA256, sha256(b"0\n").digest()).base16
        fixed = await yard.add_derivation(
            f"cat {inputs[0]} > $out", "fixed", sources=inputs, fixed=("sha256", digest)
        )
        several = await yard.add_derivation(
            "echo 1 > $out; mkdir $dev; echo $out > $dev/f", sources=inputs, outputs=("out", "dev")
        )
        await yard.build(fixed, several)
        await yard.check(several)
        assert Path(yard.output(fixed)).read_text() == "0\n"
        assert yard.database.path_info(yard.output(several, "dev")).references == {
            yard.output(several)
        }


async def nothing_left(yard: "Yard") -> None:
    """Return when all that builds leave has been deleted."""
    with trio.fail_after(5):
        while yard.leftovers():
            await trio.sleep(0.01)


@pytest.fixture
def plain_file_system(base: Path) -> Iterator[Path]:
    """A file system without extended attributes, on which no view can be made."""
    subprocess.run(["mount", "-t", "ramfs", "ramfs", base], check=True)
    base.chmod(0o755)
    yield base
    subprocess.run(["umount", "--lazy", base], check=True)


async def test_without_views_each_input_is_mounted(plain_file_system: Path, open_yard: "OpenYard"):
    """A store's file system that cannot have them costs time, and no build."""
    async with open_yard(build_users_group="builders") as yard:
        assert yard.base == plain_file_system
        inputs = await sources(yard)
        drv = await yard.add_derivation(
            "grep -c $NIX_STORE /proc/self/mountinfo; echo x > $out", sources=inputs
        )
        await yard.build(drv)
        assert int(yard.log()) > VIEW_FROM
        await nothing_left(yard)
