# SPDX-License-Identifier: GPL-3.0-or-later
"""A view of the store: which items a container sees, and what it can do with them."""

import os
from pathlib import Path
from typing import Any

import pytest

from builder.container import StoreView
from builder.operations import UPPER_NAME
from builder.spawner.client import SetupError

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]

MANY = 3000


@pytest.fixture
def view(tmp_path: Path) -> StoreView:
    """A view of two directories, a file and a link; a store has one more item."""
    store = tmp_path / "with:colon, and comma" / "store"
    for name in ("tree", "empty", "hidden"):
        (store / name / "bin").mkdir(parents=True)
    (store / "tree" / "bin" / "tool").write_text("text of a tool\n")
    (store / "tree" / "link").symlink_to("bin/tool")
    (store / "empty" / "bin").rmdir()
    (store / "file").write_text("text of a file\n")
    (store / "file").chmod(0o444)
    (store / "link").symlink_to(store / "tree")
    for name in ("tree", "empty", "file"):
        os.utime(store / name, (1, 1))
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    made = tmp_path / "upper" / UPPER_NAME
    made.mkdir()
    made.chmod(0o1777)
    return StoreView(
        str(store),
        str(store),
        "empty\nfile\nlink\ntree",
        f"{tmp_path}/upper",
        f"{tmp_path}/work",
    )


async def test_its_items_are_seen_and_no_others(bench: Any, shell: Any, view: StoreView) -> None:
    """Not even by whoever knows their names."""
    store = f"'{view.source}'"
    script = f"cd {store}; ls -A; ls hidden 2>&1; cat file tree/bin/tool tree/link link/bin/tool"
    outcome = await bench.run(shell(script, operations=(view,)))
    assert outcome.lines == [
        *view.items.split("\n"),
        "ls: cannot access 'hidden': No such file or directory",
        "text of a file",
        *["text of a tool"] * 3,
    ]


async def test_items_look_as_they_do_outside(bench: Any, shell: Any, view: StoreView) -> None:
    """Modes, owners, times, and the sizes of files."""
    script = f"cd '{view.source}'; stat -c '%n %f %u %g %Y' empty file tree; stat -c %s file"
    outcome = await bench.run(shell(script, operations=(view,)))
    seen = {name: os.stat(f"{view.source}/{name}") for name in ("empty", "file", "tree")}
    assert outcome.lines == [
        *(f"{n} {i.st_mode:x} {i.st_uid} {i.st_gid} {int(i.st_mtime)}" for n, i in seen.items()),
        "15",
    ]


async def test_items_cannot_be_changed(bench: Any, shell: Any, view: StoreView) -> None:
    """Nor deleted, nor replaced; and nothing reaches the store."""
    script = (
        f"cd '{view.source}'; echo x >> file; rm -rf file tree; mv tree other;"
        "chmod 777 tree; touch tree/new; ln tree/bin/tool hard; cat file"
    )
    outcome = await bench.run(shell(script, operations=(view,)))
    assert outcome.lines[-1] == "text of a file"
    assert sorted(os.listdir(view.source)) == ["empty", "file", "hidden", "link", "tree"]
    assert os.listdir(f"{view.upper}/{UPPER_NAME}") == []


async def test_what_is_made_is_found_outside(bench: Any, shell: Any, view: StoreView) -> None:
    """Files, directories, and links to items; the store itself does not change."""
    script = (
        f"cd '{view.source}'; mkdir -p out/lib; echo a > out/lib/a; ln -s {'x' * 9} out/l;"
        "cp tree/bin/tool tool2; mkdir other; mv other out/moved; mv tool2 out"
    )
    outcome = await bench.run(shell(script, operations=(view,)))
    assert outcome.status.succeeded, outcome.output
    made = Path(view.upper, UPPER_NAME, "out")
    assert (made / "lib" / "a").read_text() == "a\n"
    assert (made / "tool2").read_text() == "text of a tool\n"
    assert sorted(os.listdir(made)) == ["l", "lib", "moved", "tool2"]
    assert not os.path.exists(f"{view.source}/out")


async def test_a_missing_item_is_an_error(bench: Any, shell: Any, view: StoreView) -> None:
    """As it is where each item is mounted."""
    with pytest.raises(SetupError, match=r"view of 1 items of .*No such file or directory"):
        await bench.run(
            shell(
                "true",
                operations=(StoreView(view.source, view.target, "gone", view.upper, view.work),),
            )
        )


async def test_thousands_of_items_are_one_mount(
    bench: Any, shell: Any, tmp_path: Path, view: StoreView
) -> None:
    """Each leads to what it is in the store."""
    store = tmp_path / "many"
    store.mkdir()
    names = [f"item-{number}" for number in range(MANY)]
    for number, name in enumerate(names):
        if number % 2:
            (store / name).mkdir()
            (store / name / "n").write_text(f"{number}\n")
        else:
            (store / name).write_text(f"{number}\n")
    large = StoreView(str(store), "/many", "\n".join(names), view.upper, view.work)
    script = "grep -c /many /proc/self/mountinfo; cd /many; cat $(ls -v | sed 's,[13579]$,&/n,')"
    outcome = await bench.run(shell(script, operations=(large,)))
    assert outcome.lines == ["1", *map(str, range(MANY))]
