# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that look after the store, against a real daemon whose store is harmed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.storedaemon.client.conftest import HOST_DIRECTORIES
from tests.storedaemon.command_line import CommandLine

pytestmark = pytest.mark.slow

RECIPE = """
[derivations.made]
script = "#!/bin/sh\\nPATH=/usr/bin:/bin; mkdir $out; echo content > $out/file"
[derivations.other]
script = "#!/bin/sh\\nPATH=/usr/bin:/bin; mkdir $out; echo other > $out/file"
[derivations.bad]
script = "#!/bin/sh\\nexit 3"
"""


class Shop:
    """A daemon, the command line to it, and two built items."""

    def __init__(self, daemon: Any, recipe: Path) -> None:
        self.run = CommandLine(daemon.native_socket)
        self.recipe = str(recipe)
        self.made, self.other = self.run("build", self.recipe, "made", "other").stdout.split()

    def damage(self, item: str) -> None:
        """Change the content of an item."""
        file = Path(item, "file")
        file.unlink()
        file.write_text("damage\n")


@pytest.fixture
def shop(start_daemon: Callable[..., Any], tmp_path: Path) -> Shop:
    """A store with two built items, whose daemon remembers failures."""
    options = [f"--chroot-directory={path}" for path in HOST_DIRECTORIES if os.path.isdir(path)]
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE)
    return Shop(start_daemon(*options, "--cache-failures"), recipe)


def test_a_changed_item_is_found_and_repaired(shop: Shop):
    """Standard output names what is damaged, the exit code says that something is."""
    assert shop.run("verify", "--contents").returncode == 0
    shop.damage(shop.made)
    without = shop.run("verify")
    assert (without.returncode, without.stdout) == (0, "")
    found = shop.run("verify", "--contents")
    assert (found.returncode, found.stdout) == (102, f"modified {shop.made}\n")
    assert f"path `{shop.made}' was modified!" in found.stderr
    assert "checking contents of" not in found.stderr
    mended = shop.run("verify", "--contents", "--repair", "--quiet")
    assert (mended.returncode, mended.stdout, mended.stderr) == (0, f"repaired {shop.made}\n", "")
    assert Path(shop.made, "file").read_text() == "content\n"
    assert shop.run("verify", "--contents").stdout == ""


def test_named_items_alone_are_repaired(shop: Shop):
    """Others are not even looked at, and what is sound is not built again."""
    shop.damage(shop.made)
    shutil.rmtree(shop.other)
    mended = shop.run("repair", shop.other)
    assert (mended.returncode, mended.stdout) == (0, f"repaired {shop.other}\n")
    assert Path(shop.other, "file").read_text() == "other\n"
    again = shop.run("repair", shop.other)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert Path(shop.made, "file").read_text() == "damage\n"


def test_sources_cannot_be_repaired(shop: Shop, tmp_path: Path):
    """Nobody knows how to make them; programs learn it from the events."""
    (tmp_path / "text").write_text("x")
    item = shop.run("add", str(tmp_path / "text")).stdout.strip()
    os.unlink(item)
    failed = shop.run("repair", item, "--json")
    assert failed.returncode == 102
    *_, damage, done = map(json.loads, failed.stdout.splitlines())
    assert damage == {"event": "damage", "path": item, "damage": "missing", "repaired": False}
    assert done == {"event": "done", "errors": True}
    unknown = shop.run("repair", f"{os.path.dirname(item)}/{'1' * 32}-x")
    assert (unknown.returncode, "is not valid" in unknown.stderr) == (1, True)


def test_what_is_gone_is_forgotten(shop: Shop):
    """That alone is no damage that remains: nothing refers to it."""
    shutil.rmtree(shop.made)
    found = shop.run("verify")
    assert (found.returncode, found.stdout) == (0, f"forgotten {shop.made}\n")
    assert shop.run("path-info", shop.made).returncode == 1


def test_sharing_tells_what_it_saves(shop: Shop):
    """For people and for programs."""
    assert shop.run("optimise").stdout == "   0  bytes saved by sharing 0 files\n"
    done = json.loads(shop.run("optimise", "--json").stdout.splitlines()[-1])
    assert done == {"event": "done", "files": 0, "size": 0}


def test_remembered_failures_are_listed_and_forgotten(shop: Shop):
    """A build that failed is not tried again until then."""
    assert shop.run("build", shop.recipe, "bad").returncode == 100
    failed = shop.run("failed-paths").stdout.split()
    assert len(failed) == 1
    assert "cached-failure" in shop.run("build", shop.recipe, "bad").stderr
    assert json.loads(shop.run("failed-paths", "--json").stdout) == failed
    assert shop.run("failed-paths", *failed).returncode == 2
    assert shop.run("failed-paths", "--clear", shop.made).returncode == 0
    assert shop.run("failed-paths").stdout.split() == failed
    assert shop.run("failed-paths", "--clear").returncode == 0
    assert shop.run("failed-paths").stdout == ""
