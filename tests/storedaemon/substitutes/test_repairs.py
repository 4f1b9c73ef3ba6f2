# SPDX-License-Identifier: GPL-3.0-or-later
"""Repairs: what is looked at, and where what is damaged comes from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.options import BuildMode
from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError
from tests.storedaemon.substitutes.bench import Recipes, item, use
from tests.storedaemon.substitutes.server import Shelf

HOST = tuple(f"--chroot-directory={path}" for path in ("/bin", "/usr", "/lib", "/lib64"))
REPAIR = m.VerifyStore(check_contents=True, repair=True)
SOUND = m.Truth(value=False)

pytestmark = pytest.mark.root


@pytest.fixture
def daemon(start_daemon: Callable[..., RunningDaemon], shelf: Shelf) -> RunningDaemon:
    """A daemon that may substitute, and whose builders may use the machine's shell."""
    return start_daemon("--no-offload", *HOST, environment=shelf.environment)


def damage(path: str) -> None:
    """Change an item's content."""
    Path(path).chmod(0o644)
    Path(path).write_text("damage")


def repair(client: GuixClient, *paths: str) -> str:
    """Have derivations or items repaired; return what was shown meanwhile."""
    client.output.clear()
    client.build(*paths, mode=BuildMode.REPAIR)
    return client.text


def library_and_program(client: GuixClient, recipes: Recipes, *, refers: bool) -> list[str]:
    """Build two derivations, of which one needs the other; return them and their outputs."""
    library, built = recipes.add("library", "echo library > $out")
    words = built if refers else "nothing"
    program, output = recipes.add("program", f"echo {words} > $out", inputs=[library])
    client.build(program)
    return [library, built, program, output]


def test_items_that_nothing_makes_are_substituted(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """A verification that repairs needs no derivation where there is a substitute."""
    path = item(daemon, 1)
    shelf.offer(path, b"sound")
    client.build(path)
    damage(path)
    assert client.call(REPAIR) == SOUND
    assert Path(path).read_text() == "sound"
    damage(path)
    repair(client, path)
    assert Path(path).read_text() == "sound"


def test_what_cannot_be_substituted_is_built(client: GuixClient, shelf: Shelf, recipes: Recipes):
    """A download that fails is not the end."""
    use(client, fallback=True)
    drv, output = recipes.add("program", "echo sound > $out")
    shelf.offer(output, b"other", status="not-found")
    client.build(drv)
    damage(output)
    client.output.clear()
    assert client.call(REPAIR) == SOUND
    assert Path(output).read_text() == "sound\n"
    assert "@ substituter-failed" in client.text
    assert f"@ build-succeeded {drv} -" in client.text


def test_what_sound_outputs_refer_to_is_repaired(client: GuixClient, recipes: Recipes):
    """By the derivation that makes it, while the one that was named is not built again."""
    library, built, program, output = library_and_program(client, recipes, refers=True)
    damage(built)
    shown = repair(client, program)
    found = f"found corrupted or missing path `{built}' in the output closure of `{program}'"
    assert shown.splitlines()[0] == found
    assert Path(built).read_text() == "library\n"
    assert f"@ build-succeeded {library} -" in shown
    assert f"@ build-started {program}" not in shown
    assert repair(client, program) == ""
    assert Path(output).read_text() == f"{built}\n"


def test_inputs_of_sound_outputs_do_not_matter(client: GuixClient, recipes: Recipes):
    """What only the builder needed is left alone."""
    _, built, program, _ = library_and_program(client, recipes, refers=False)
    damage(built)
    assert repair(client, program) == ""
    assert Path(built).read_text() == "damage"


def test_inputs_are_repaired_before_what_they_make(client: GuixClient, recipes: Recipes):
    """A damaged output is not made from damaged inputs."""
    _, built, program, output = library_and_program(client, recipes, refers=False)
    damage(built)
    damage(output)
    repair(client, program)
    assert (Path(built).read_text(), Path(output).read_text()) == ("library\n", "nothing\n")


def test_sources_that_outputs_refer_to_are_substituted(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, recipes: Recipes
):
    """Nothing makes them, but somebody may have them."""
    source = item(daemon, 1)
    shelf.offer(source, b"sound")
    client.build(source)
    program, _ = recipes.add("program", f"echo {source} > $out", sources=[source])
    client.build(program)
    damage(source)
    repair(client, program)
    assert Path(source).read_text() == "sound"


def test_sources_that_nobody_has_stay_damaged(client: GuixClient, recipes: Recipes):
    """Their users are told; nothing is built."""
    source = client.add_text("source", b"sound")
    program, _ = recipes.add("program", f"echo {source} > $out", sources=[source])
    client.build(program)
    damage(source)
    client.output.clear()
    with pytest.raises(RequestFailedError, match=r"program\.drv' failed"):
        client.build(program, mode=BuildMode.REPAIR)
    why = f"some paths in the output closure of derivation `{program}' could not be repaired"
    assert why in client.text
    assert "@ build-started" not in client.text
