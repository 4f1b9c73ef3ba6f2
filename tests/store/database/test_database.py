# SPDX-License-Identifier: GPL-3.0-or-later
"""The store database as its callers see it."""

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from store.database import NewItem, StoreDatabase
from store.errors import DatabaseError, InvalidPathError, NotValidError, StoreError
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.layout import Layout
from store.paths import StorePath


def read(path: str) -> str | None:
    """Return a file's text, None where there is no file."""
    return Path(path).read_text() if Path(path).exists() else None


def open_descriptors() -> int:
    """Count this process's descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def stated_schema(layout: Layout, request: pytest.FixtureRequest) -> None:
    """A file that states a schema, without a database."""
    Path(layout.schema_file).write_text(request.param)


async def test_a_new_database_is_one_the_other_daemon_knows(layout: Layout):
    """Schema 7, WAL, and a file that says so."""
    async with StoreDatabase.open(layout):
        pass
    assert read(layout.schema_file) == "7"
    raw = apsw.Connection(layout.database_file)
    tables = {row[0] for row in raw.execute("select name from sqlite_schema where sql not null")}
    assert tables == {
        "ValidPaths",
        "Refs",
        "IndexReferrer",
        "IndexReference",
        "DeleteSelfRefs",
        "DerivationOutputs",
        "IndexDerivationOutputs",
        "FailedPaths",
        "sqlite_sequence",
    }
    assert raw.pragma("journal_mode") == "wal"
    raw.close()


async def test_what_was_registered_is_found_after_reopening(
    layout: Layout, make_info: Callable[..., PathInfo]
):
    """Nothing of the log is lost at close."""
    info = make_info("a")
    async with StoreDatabase.open(layout) as database:
        await database.register([NewItem(info)])
    assert read(layout.database_file + "-wal") is None
    async with StoreDatabase.open(layout) as database:
        assert database.is_valid(info.path)


async def test_info_comes_back_as_it_was_registered(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """All fields survive, a reference to itself among them."""
    await database.register([NewItem(make_info("b"))])
    info = make_info("a", "a", "b", deriver="a.drv")
    await database.register([NewItem(info)])
    found = database.path_info(info.path)
    assert found.registration_time > 0
    assert (found.path, found.nar_hash, found.nar_size) == (
        info.path,
        info.nar_hash,
        info.nar_size,
    )
    assert found.references == info.references
    assert found.deriver == info.deriver == database.deriver(info.path)
    assert database.references(info.path) == sorted([make_path("a"), make_path("b")])
    assert database.referrers(make_path("b")) == [info.path]


async def test_rows_have_the_other_daemons_form(
    database: StoreDatabase, layout: Layout, make_info: Callable[..., PathInfo]
):
    """The hash is written in base 16; an unknown size and deriver are NULL."""
    info = make_info("a", size=0)
    await database.register([NewItem(info)])
    raw = apsw.Connection(layout.database_file)
    rows = raw.execute("select path, hash, deriver, narSize from ValidPaths").fetchall()
    raw.close()
    assert rows == [(info.path, f"sha256:{info.nar_hash.base16}", None, None)]
    assert database.path_info(info.path).nar_size == 0


async def test_an_unknown_item_is_not_valid(
    database: StoreDatabase, make_path: Callable[[str], StorePath]
):
    """Each question that needs the item says so, in the words clients know."""
    path = make_path("a")
    assert not database.is_valid(path)
    assert database.referrers(path) == []
    for ask in (
        database.path_info,
        database.references,
        database.deriver,
        database.derivation_outputs,
        database.derivation_output_names,
    ):
        with pytest.raises(NotValidError) as caught:
            ask(path)
        assert caught.value.message == f"path `{path}' is not valid"


async def test_registering_again_renews_hash_and_size(
    database: StoreDatabase, make_info: Callable[..., PathInfo]
):
    """The time and identity of the item stay."""
    info = make_info("a")
    await database.register([NewItem(info)])
    before = database.path_info(info.path)
    renewed = make_info("a", size=7)
    await database.register([NewItem(renewed)])
    after = database.path_info(info.path)
    assert after.nar_size == 7
    assert after.registration_time == before.registration_time


async def test_a_reference_must_be_valid_or_come_along(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """Otherwise nothing at all is registered."""
    with pytest.raises(NotValidError) as caught:
        await database.register([NewItem(make_info("b")), NewItem(make_info("a", "b", "c"))])
    assert caught.value.message == f"path `{make_path('c')}' is not valid"
    assert not database.is_valid(make_path("b"))
    await database.register(
        [NewItem(make_info("a", "b", "c")), NewItem(make_info("c")), NewItem(make_info("b"))]
    )
    assert database.is_valid(make_path("a"))


async def test_items_must_not_refer_to_each_other_in_a_circle(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """A circle of outputs of one build is refused as a whole."""
    with pytest.raises(StoreError, match="cycle detected in the references of `") as caught:
        await database.register([NewItem(make_info("a", "b")), NewItem(make_info("b", "a"))])
    assert caught.value.reason == "cycle"
    assert not database.is_valid(make_path("a"))


async def test_old_references_count_in_a_circle(
    database: StoreDatabase, make_info: Callable[..., PathInfo]
):
    """An item that is renewed keeps its references, which may close the circle."""
    await database.register([NewItem(make_info("b"))])
    await database.register([NewItem(make_info("a", "b"))])
    with pytest.raises(StoreError, match="cycle"):
        await database.register([NewItem(make_info("a")), NewItem(make_info("b", "a"))])


async def test_outputs_of_derivations_are_remembered(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """They can be asked for by name, by path, and from the output."""
    outputs = {"out": make_path("x"), "doc": make_path("x-doc")}
    await database.register([NewItem(make_info("x.drv"), outputs)])
    drv = make_path("x.drv")
    assert database.derivation_output_names(drv) == ["doc", "out"]
    assert database.derivation_outputs(drv) == sorted(outputs.values())
    assert database.valid_derivers(make_path("x")) == [drv]
    await database.register([NewItem(make_info("y"))])
    assert database.derivation_outputs(make_path("y")) == []


async def test_an_item_in_use_is_not_forgotten(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """A reference to itself does not count as use."""
    await database.register([NewItem(make_info("b")), NewItem(make_info("a", "a", "b"))])
    with pytest.raises(StoreError) as caught:
        await database.invalidate(make_path("b"))
    assert caught.value.reason == "in-use"
    assert caught.value.message == (
        f"cannot delete path `{make_path('b')}' because it is in use by `{make_path('a')}'"
    )
    await database.invalidate(make_path("a"))
    await database.invalidate(make_path("b"))
    assert await database.all_valid_paths() == frozenset()


async def test_an_item_is_found_by_its_hash_part(
    database: StoreDatabase,
    layout: Layout,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """Only by all of it."""
    path = make_path("a")
    digits = path.removeprefix(f"{layout.store}/")[:32]
    assert database.path_from_hash_part(digits) is None
    await database.register([NewItem(make_info("a"))])
    assert database.path_from_hash_part(digits) == path
    assert database.path_from_hash_part("0" * 32) is None
    with pytest.raises(InvalidPathError, match="invalid hash part"):
        database.path_from_hash_part(digits[:31])


async def test_closures_follow_references(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """However long the way; an invalid start is named."""
    chain = [make_info("0")] + [make_info(str(n), str(n - 1)) for n in range(1, 200)]
    await database.register([NewItem(info) for info in chain])
    assert await database.closure([make_path("150")]) == {make_path(str(n)) for n in range(151)}
    assert await database.closure([]) == frozenset()
    with pytest.raises(NotValidError, match="is not valid"):
        await database.closure([make_path("3"), make_path("missing")])


async def test_many_paths_are_sifted_at_once(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """Both ways of asking agree."""
    await database.register([NewItem(make_info("a")), NewItem(make_info("b"))])
    asked = [make_path(name) for name in ("b", "c", "a")]
    assert database.valid_paths(asked) == sorted([make_path("a"), make_path("b")])
    assert await database.valid_subset(asked) == {make_path("a"), make_path("b")}


async def test_failures_are_remembered_until_forgiven(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """By output, by derivation, or all."""
    await database.register([NewItem(make_info("x.drv"), {"out": make_path("x")})])
    await database.register_failed([make_path("x"), make_path("y"), make_path("z")])
    assert database.has_failed(make_path("x"))
    await database.clear_failed([make_path("x.drv"), make_path("y")])
    assert await database.failed_paths() == {make_path("z")}
    await database.clear_failed(["*"])
    assert await database.failed_paths() == frozenset()


async def test_hashes_can_be_corrected(
    database: StoreDatabase,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
):
    """Of valid items."""
    await database.register([NewItem(make_info("a", size=0))])
    digest = Digest.of(HashAlgorithm.SHA256, b"other")
    await database.update_hash(make_path("a"), digest, 9)
    info = database.path_info(make_path("a"))
    assert (info.nar_hash, info.nar_size) == (digest, 9)
    with pytest.raises(NotValidError):
        await database.update_hash(make_path("b"), digest, 9)


@pytest.mark.parametrize(
    ("field", "complaint"),
    [("nonsense", "corrupt hash `nonsense'"), ("sha7:00", "unknown hash type `sha7'")],
)
async def test_a_damaged_row_is_named(
    database: StoreDatabase,
    layout: Layout,
    make_info: Callable[..., PathInfo],
    make_path: Callable[[str], StorePath],
    field: str,
    complaint: str,
):
    """And harms nothing else."""
    await database.register([NewItem(make_info("a"))])
    raw = apsw.Connection(layout.database_file)
    raw.execute("update ValidPaths set hash = ?", (field,))
    raw.close()
    with pytest.raises(DatabaseError) as caught:
        database.path_info(make_path("a"))
    assert caught.value.message == f"{complaint} in valid-path entry for `{make_path('a')}'"


@pytest.mark.usefixtures("stated_schema")
@pytest.mark.parametrize(
    ("stated_schema", "complaint"),
    [("6", "schema version 6"), ("x", "is corrupt")],
    indirect=["stated_schema"],
)
async def test_another_schema_is_refused(layout: Layout, complaint: str):
    """The message says which, and the database is left alone."""
    with pytest.raises(DatabaseError, match=complaint):
        async with StoreDatabase.open(layout):
            pass
    assert read(layout.database_file) is None


@pytest.mark.usefixtures("stated_schema")
@pytest.mark.parametrize("stated_schema", ["7"], indirect=True)
async def test_a_missing_database_is_not_made_anew_where_one_is_stated(layout: Layout):
    """An empty one in its place would make the whole store garbage."""
    with pytest.raises(DatabaseError, match="cannot open store database"):
        async with StoreDatabase.open(layout):
            pass


async def test_no_descriptor_is_left_open(layout: Layout, make_info: Callable[..., PathInfo]):
    """Not even of bulk queries."""
    before = open_descriptors()
    async with StoreDatabase.open(layout) as database:
        await database.register([NewItem(make_info("a"))])
        await database.all_valid_paths()
    assert open_descriptors() == before
