# SPDX-License-Identifier: GPL-3.0-or-later
"""Substitutes with a real daemon, a real program that serves them, and real clients."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from builder.events import SubstituteProgress, SubstituteSucceeded
from builder.options import BuildMode
from store.derivations import unparse_derivation
from store.paths import StoreDirectory
from storedaemon.client.builds import BuildWishes
from storedaemon.client.client import connect
from storedaemon.client.errors import DaemonError
from storedaemon.wire import messages as m
from tests.soundness import leftovers, unsound_items
from tests.storedaemon.command_line import CommandLine
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient
from tests.storedaemon.substitutes.bench import Recipes, item, use
from tests.storedaemon.substitutes.server import Shelf


def test_an_item_is_substituted_with_what_it_refers_to(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, tmp_path: Path
):
    """It is registered as it was offered, after its references, with the hash of what came."""
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "run").write_text("#!/bin/sh\n")
    (tree / "bin" / "run").chmod(0o700)
    (tree / "link").symlink_to("bin/run")
    library, program = item(daemon, 1, "library"), item(daemon, 2, "program")
    deriver = item(daemon, 3, "program.drv")
    shelf.offer(library, b"library")
    shelf.offer(program, tree, library, program, deriver=deriver)
    client.build(program)
    info = client.path_info(program)
    assert info.references == (library, program)
    assert info.deriver == deriver
    assert os.readlink(f"{program}/link") == "bin/run"
    assert client.is_valid(library)
    assert not unsound_items(daemon)
    assert not leftovers(daemon)
    assert client.text.index(f"substituter-succeeded {library}") < client.text.index(
        f"substituter-started {program}"
    )


def test_one_question_asks_for_all(daemon: RunningDaemon, client: GuixClient, shelf: Shelf):
    """A thousand items take one question a layer of references, and one program."""
    bottom = [item(daemon, number) for number in range(1000, 1500)]
    top = [item(daemon, number, "top") for number in range(2000, 2500)]
    for below, above in zip(bottom, top, strict=True):
        shelf.offer(above, b"", below)
        shelf.offer(below, b"")
    reply = client.call(m.QuerySubstitutablePaths((*bottom, *top)))
    assert isinstance(reply, m.TextsReply)
    assert reply.values == tuple(sorted([*bottom, *top]))
    assert len(shelf.requests("info")) == 1
    assert shelf.requests("start") == ["start --query"]


def test_outputs_are_substituted_rather_than_built(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, recipes: Recipes
):
    """The builder, which would fail, is not run; what it needs is not even looked for."""
    library, _ = recipes.add("library")
    drv, output = recipes.add("program", inputs=[library])
    shelf.offer(output, b"from elsewhere", deriver=drv)
    client.build(drv)
    assert Path(output).read_bytes() == b"from elsewhere"
    assert client.path_info(output).deriver == drv
    assert shelf.requests("info") == [f"info {output}"]
    assert not leftovers(daemon)


def test_what_is_valid_is_not_asked_for(client: GuixClient, shelf: Shelf, recipes: Recipes):
    """A request for what is there starts no program."""
    drv, _ = recipes.add("here", "echo here > $out")
    client.build(drv)
    asked = len(shelf.requests())
    client.build(drv)
    assert len(shelf.requests()) == asked


def test_what_nobody_offers_is_built(client: GuixClient, shelf: Shelf, recipes: Recipes):
    """And so is what forbids substitutes, without a question."""
    drv, output = recipes.add("local", "echo local > $out")
    strict, forbidden = recipes.add("strict", "echo strict > $out", allowSubstitutes="0")
    shelf.offer(forbidden, b"from elsewhere")
    client.build(drv, strict)
    assert Path(output).read_text() == "local\n"
    assert Path(forbidden).read_text() == "strict\n"
    assert shelf.requests("info") == [f"info {output}"]


def test_a_client_may_want_no_substitutes(daemon: RunningDaemon, shelf: Shelf):
    """Then no program is started for it, and the answers are that there is nothing."""
    path = item(daemon, 1)
    shelf.offer(path, b"x")
    with GuixClient(daemon.guix_socket) as client:
        client.set_options()
        client.build(path)
        assert not client.is_valid(path)
        assert client.call(m.HasSubstitutes(path)) == m.Truth(value=False)
        assert client.call(m.QuerySubstitutablePathInfo(path)) == m.SubstitutableReply(None)
        assert client.call(m.SubstituteURLs()) == m.TextsReply(())
    assert shelf.requests() == []


def test_what_a_substitute_lacks_is_built_first(client: GuixClient, shelf: Shelf, recipes: Recipes):
    """The program refers to a library that nobody offers, and that can be built."""
    library, built = recipes.add("library", "echo library > $out")
    drv, output = recipes.add("program", inputs=[library])
    shelf.offer(output, b"program", built)
    client.build(drv)
    assert Path(built).read_text() == "library\n"
    assert Path(output).read_bytes() == b"program"
    assert client.path_info(output).references == (built,)


def test_a_closure_that_stays_incomplete_is_built(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, recipes: Recipes
):
    """The substitute refers to what nothing makes; without it, nothing is downloaded."""
    drv, output = recipes.add("program", "echo built > $out")
    shelf.offer(output, b"program", item(daemon, 1, "unheard-of"))
    client.build(drv)
    assert Path(output).read_text() == "built\n"
    assert shelf.requests("substitute") == []


def test_a_missing_derivation_is_downloaded_and_its_output_too(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, recipes: Recipes
):
    """Its outputs are registered with it, as if it had been added."""
    complete = recipes.complete("remote")
    text = unparse_derivation(complete)
    drv = StoreDirectory(daemon.store).text_path("remote.drv", sha256(text).digest(), frozenset())
    output = complete.outputs["out"].path
    shelf.offer(drv, text)
    shelf.offer(output, b"remote")
    client.build(drv)
    assert client.derivation_outputs(drv) == (output,)
    assert Path(output).read_bytes() == b"remote"


def test_two_clients_share_a_download(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, tmp_path: Path
):
    """The second joins while the first is at it, and both see it succeed."""
    path = item(daemon, 1)
    shelf.offer(path, b"x", on_fetch=f"wait {tmp_path}/go")
    client.send_only(m.BuildPaths((path,)))
    while "substituter-started" not in client.text:
        client.next_event()
    with GuixClient(daemon.guix_socket) as other:
        use(other)
        other.send_only(m.BuildPaths((path,)))
        while "substituter-started" not in other.text:
            other.next_event()
        (tmp_path / "go").touch()
        other.wait()
        client.wait()
        assert "substituter-succeeded" in other.text
    assert len(shelf.requests("substitute")) == 1


def test_another_job_s_download_is_taken_as_it_is(
    daemon: RunningDaemon, shelf: Shelf, tmp_path: Path
):
    """Clients whose substitutes come from elsewhere wait for the item's lock."""
    path = item(daemon, 1)
    shelf.offer(path, b"x", on_fetch=f"wait {tmp_path}/go")
    with GuixClient(daemon.guix_socket) as one, GuixClient(daemon.guix_socket) as two:
        use(one)
        use(two, substitute_urls="https://example.org")
        one.send_only(m.BuildPaths((path,)))
        while "substituter-started" not in one.text:
            one.next_event()
        two.send_only(m.BuildPaths((path,)))
        (tmp_path / "go").touch()
        one.wait()
        two.wait()
    assert len(shelf.requests("substitute")) == 1


def test_each_set_of_urls_has_a_program_of_its_own(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """Other settings do not matter; the same URLs lead back to the same program."""
    path = item(daemon, 1)
    for urls in ("https://one.example", "https://two.example", "https://one.example"):
        use(client, substitute_urls=urls, terminal_columns=str(len(shelf.requests())))
        assert client.call(m.SubstituteURLs()) == m.TextsReply((urls,))
        client.call(m.HasSubstitutes(path))
    options = [options for _, line, options in shelf.notes() if line == "start --query"]
    assert options == [
        "substitute-urls=https://one.example\n",
        "substitute-urls=https://two.example\n",
    ]


def test_traces_have_the_shape_that_guix_expects(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """Lines come in the reference's order, with the item's own name."""
    path = item(daemon, 1)
    shelf.offer(path, b"x")
    client.build(path)
    url = f"file://{shelf.directory}/{os.path.basename(path)}"
    assert [line for line in client.text.splitlines() if line.startswith("@")] == [
        f"@ substituter-started {path} substitute",
        f"@ download-started {path} {url} 60",
        f"@ download-progress {path} {url} 60 60",
        f"@ download-succeeded {path} {url} 60",
        f"@ substituter-succeeded {path}",
    ]


def test_what_is_damaged_is_downloaded_again(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, recipes: Recipes
):
    """A repair takes a substitute where there is one."""
    drv, output = recipes.add("program")
    shelf.offer(output, b"sound")
    client.build(drv)
    Path(output).chmod(0o644)
    Path(output).write_bytes(b"damaged")
    client.build(drv, mode=BuildMode.REPAIR)
    assert Path(output).read_bytes() == b"sound"
    assert not unsound_items(daemon)


async def test_native_clients_ask_plan_and_download(
    daemon: RunningDaemon, shelf: Shelf, recipes: Recipes
):
    """Offers, a plan, and events with numbers."""
    library, _ = recipes.add("library", "echo library > $out")
    drv, output = recipes.add("program", inputs=[library])
    extra = item(daemon, 1)
    shelf.offer(output, b"program", deriver=drv)
    async with connect(daemon.native_socket) as native:
        offers, urls = await native.substitutable([output, extra])
        assert [(offer.path, offer.deriver) for offer in offers] == [(output, drv)]
        assert urls
        outlook = await native.plan([drv, library, extra])
        assert outlook.builds == (library,)
        assert [offer.path for offer in outlook.downloads] == [output]
        assert outlook.impossible == (extra,)
        off = await native.plan([drv], BuildWishes(substitutes=False))
        assert set(off.builds) == {drv, library}
        async with native.build([drv]) as build:
            told = [event async for event in build]
            await build.outputs()
        async with native.build([extra]) as build:
            with pytest.raises(DaemonError, match="nothing to make it from"):
                await build.outputs()
    assert any(isinstance(event, SubstituteProgress) and event.size for event in told)
    assert any(isinstance(event, SubstituteSucceeded) for event in told)


def test_the_command_line_shows_what_can_be_had(daemon: RunningDaemon, shelf: Shelf):
    """One line an item, or JSON; the exit code tells whether all is offered."""
    path, absent = item(daemon, 1), item(daemon, 2)
    shelf.offer(path, b"x")
    run = CommandLine(daemon.native_socket)

    shown = run("substitutes", path)
    assert (shown.returncode, shown.stdout) == (0, f"{path} (60  bytes)\n")
    both = run("substitutes", "--json", path, absent)
    assert both.returncode == 1
    answer = json.loads(both.stdout)
    assert [offer["path"] for offer in answer["offers"]] == [path]
    assert answer["absent"] == [absent]
    dry = run("build", "--dry-run", path)
    assert "would be downloaded" in dry.stdout
    built = run("build", path)
    assert built.returncode == 0
    assert f"downloading {path}" in built.stderr
