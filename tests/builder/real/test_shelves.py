# SPDX-License-Identifier: GPL-3.0-or-later
"""Builders of fixed outputs find content by its hash, without any network; others see none of it.

The outputs here state another hash than what they look up has, so that it is the
builder that finds it, not the daemon.
"""

import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder import users
from builder.network import NetworkMode
from builder.users import BuildUser
from store.content_import import ContentImport
from store.database import NewItem
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.nar.hash import nar_hash_of
from store.paths import StorePath

if TYPE_CHECKING:
    from tests.builder.real.conftest import OpenYard, Yard

LARGE = b"content" * 10_000
DOWNLOADER = Path(__file__).parents[3] / "contrib/downloaders/fetch-by-hash"

BUILD_USER = BuildUser("builder0", 47113, 47113, ())

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def build_user(monkeypatch: pytest.MonkeyPatch, base: Path):
    """One that no other test has, and who can get to the store."""
    monkeypatch.setattr(users, "members", lambda _group: [BUILD_USER])
    base.chmod(0o755)


def twice(content: bytes) -> tuple[str, str]:
    """State the content that a builder makes by writing what it finds twice."""
    return "sha256", sha256(content * 2).hexdigest()


def hex_of(content: bytes) -> str:
    """Hash a file's bytes."""
    return sha256(content).hexdigest()


async def make(yard: "Yard", content: bytes) -> StorePath:
    """Build a fixed output."""
    source = await yard.add_text("source", content)
    drv = await yard.add_derivation(
        f"cat {source} > $out", name="first", sources=[source], fixed=("sha256", hex_of(content))
    )
    await yard.build(drv)
    return yard.output(drv)


async def test_a_file_is_found_by_its_hash(yard: "Yard"):
    """Even where builders run as the daemon's user, as far as it is in `.links`."""
    await make(yard, LARGE)
    known = f"/by-hash/sha256/{hex_of(LARGE)}"
    drv = await yard.add_derivation(
        f"cat {known} {known} > $out", name="second", fixed=twice(LARGE)
    )
    await yard.build(drv)
    assert Path(yard.output(drv)).read_bytes() == LARGE * 2


async def test_links_are_found_by_the_hash_of_the_archive_form(yard: "Yard"):
    """These names are the C++ daemon's."""
    first = await make(yard, LARGE)
    name = yard.database.path_info(first).nar_hash.base32
    drv = await yard.add_derivation(
        f"f={yard.layout.store}/.links/{name}; cat $f $f > $out", name="second", fixed=twice(LARGE)
    )
    await yard.build(drv)


async def test_the_downloader_finds_content_without_a_network(open_yard: "OpenYard"):
    """It takes small files too, where there are build users."""
    async with open_yard(
        build_users_group="builders", fixed_output_network=NetworkMode.NONE
    ) as yard:
        await make(yard, b"small\n")
        script = await yard.add_text("fetch", DOWNLOADER.read_bytes(), executable=True)
        drv = await yard.add_derivation(
            f"{script} sha256 {hex_of(b'small' + bytes([10]))} found http://localhost:1/x;"
            "ls /sys/class/net 2>/dev/null || true; cat found found > $out",
            name="second",
            sources=[script],
            fixed=twice(b"small\n"),
        )
        await yard.build(drv)
        assert Path(yard.output(drv)).read_bytes() == b"small\n" * 2
        assert "found /by-hash/sha256/" in yard.log()


async def test_a_directory_is_found_by_its_hash(open_yard: "OpenYard"):
    """`.dirlinks` leads to the item, of which everything can be read."""
    async with open_yard(build_users_group="builders") as yard:
        tree = await yard.add_derivation("mkdir -p $out/a; printf text > $out/a/file", name="tree")
        await yard.build(tree)
        name = yard.database.path_info(yard.output(tree)).nar_hash.base32
        drv = await yard.add_derivation(
            f"f={yard.layout.store}/.dirlinks/{name}/a/file; cat $f $f > $out; ! echo x > $f",
            name="second",
            fixed=twice(b"text"),
        )
        await yard.build(drv)
        assert Path(yard.output(drv)).read_bytes() == b"texttext"


async def test_nobody_reaches_other_builds_through_the_store(open_yard: "OpenYard"):
    """The private directories of builds stay closed."""
    async with open_yard(build_users_group="builders") as yard:
        drv = await yard.add_derivation(
            f"cd {yard.layout.store}/.items; ls -d *.drv.chroot;"
            "! ls *.drv.chroot/ || exit 1; printf xx > $out",
            fixed=twice(b"x"),
        )
        await yard.build(drv)


async def test_without_build_users_the_store_stays_hidden(yard: "Yard"):
    """Nothing would keep one builder from another's outputs."""
    drv = await yard.add_derivation(
        f"! test -e {yard.layout.store}/.items || exit 1; printf xx > $out", fixed=twice(b"x")
    )
    await yard.build(drv)


@pytest.mark.parametrize("group", ["", "builders"])
async def test_ordinary_builders_see_nothing_of_it(open_yard: "OpenYard", group: str):
    """Their outputs may depend on their inputs alone."""
    async with open_yard(build_users_group=group) as yard:
        drv = await yard.add_derivation(
            "ls -a /by-hash && exit 1; cd $(dirname $out);"
            "for each in .links .dirlinks .items; do ! ls -d $each || exit 1; done; touch $out"
        )
        await yard.build(drv)


async def test_what_others_registered_is_found(open_yard: "OpenYard"):
    """The hashes in the database are brought into the index, once each."""
    async with open_yard(build_users_group="builders") as yard:
        path = StorePath(f"{yard.layout.store}/{'a' * 32}-tree")
        os.mkdir(path)
        Path(path, "file").write_bytes(b"text")
        fd = os.open(yard.layout.store, os.O_RDONLY)
        digest, size = nar_hash_of(fd, os.path.basename(path))
        os.close(fd)
        await yard.database.register([NewItem(PathInfo(path, digest, size, frozenset()))])
        imports = ContentImport(yard.layout, yard.database, yard.content_index)
        assert await imports.import_new() >= 1
        assert await imports.import_new() == 0
        assert yard.content_index.lookup(digest, recursive=True) == path
        drv = await yard.add_derivation(
            f"f={yard.layout.store}/.dirlinks/{digest.base32}/file; cat $f $f > $out",
            fixed=twice(b"text"),
        )
        await yard.build(drv)


async def test_links_go_with_the_items(yard: "Yard"):
    """What leads nowhere is removed, and what is forgotten as well."""
    first = await make(yard, b"small")
    await yard.content_index.flush()
    link = Path(yard.layout.by_hash, "sha256", hex_of(b"small"))
    assert os.path.basename(os.readlink(link)) == os.path.basename(first)
    assert await yard.content_index.sweep_links() == 0
    os.unlink(first)
    assert await yard.content_index.sweep_links() == 1
    assert not os.path.lexists(link)
    await make(yard, LARGE)
    await yard.content_index.flush()
    link = link.with_name(hex_of(LARGE))
    assert os.path.lexists(link)
    digest = Digest(HashAlgorithm.SHA256, bytes.fromhex(hex_of(LARGE)))
    yard.content_index.forget(digest, recursive=False)
    await yard.content_index.flush()
    assert not os.path.lexists(link)
