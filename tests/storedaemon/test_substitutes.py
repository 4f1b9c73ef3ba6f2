# SPDX-License-Identifier: GPL-3.0-or-later
"""Substitutes with a real daemon, a real program that serves them, and real clients."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from store.derivation_checks import DerivationChecker
from store.derivations import Derivation, Output, unparse_derivation
from store.paths import StoreDirectory, StorePath
from storedaemon.wire import messages as m
from tests.soundness import leftovers, unsound_items
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError
from tests.storedaemon.substitute_server import Shelf, archive_of

StartDaemon = Callable[..., RunningDaemon]
ZEROS = "0" * 52


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """What can be substituted."""
    return Shelf(tmp_path)


@pytest.fixture
def daemon(start_daemon: StartDaemon, shelf: Shelf) -> RunningDaemon:
    """A daemon that may substitute, and builds outside a container."""
    return start_daemon("--no-offload", "--disable-chroot", environment=shelf.environment)


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[GuixClient]:
    """A client that wants substitutes, and traces."""
    with GuixClient(daemon.guix_socket) as made:
        use(made)
        yield made


def use(
    client: GuixClient, *, fallback: bool = False, keep_going: bool = False, **settings: str
) -> None:
    """Have a client want substitutes."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in settings.items())
    client.call(
        m.SetOptions(
            keep_failed=False,
            keep_going=keep_going,
            fallback=fallback,
            verbosity=1,
            print_build_trace=True,
            use_substitutes=True,
            settings=pairs,
        )
    )


def item(daemon: RunningDaemon, number: int, name: str = "item") -> str:
    """Name an item that nothing makes."""
    return f"{daemon.store}/{number:032d}-{name}"


@dataclass(frozen=True)
class Recipes:
    """Adds derivations whose builder is a shell script."""

    client: GuixClient
    daemon: RunningDaemon
    builder: str

    def add(
        self,
        name: str,
        script: str = "exit 1",
        inputs: Sequence[str] = (),
        sources: Sequence[str] = (),
        **env: str,
    ) -> tuple[str, str]:
        """Add a derivation; return it, and its output."""
        complete = self.complete(name, script, inputs, sources, **env)
        references = [*complete.input_derivations, *complete.input_sources]
        drv = self.client.add_text(f"{name}.drv", unparse_derivation(complete), references)
        return drv, complete.outputs["out"].path

    def complete(
        self,
        name: str,
        script: str = "exit 1",
        inputs: Sequence[str] = (),
        sources: Sequence[str] = (),
        **env: str,
    ) -> Derivation:
        """Describe a derivation, without adding it."""
        derivation = Derivation(
            {"out": Output("", "", "")},
            {StorePath(drv): ("out",) for drv in sorted(inputs)},
            tuple(map(StorePath, sorted([*sources, self.builder]))),
            "x86_64-linux",
            self.builder,
            (script,),
            {"out": "", **env},
        )
        return DerivationChecker(StoreDirectory(self.daemon.store)).complete(derivation, name)


@pytest.fixture
def recipes(client: GuixClient, daemon: RunningDaemon) -> Recipes:
    """Adds derivations."""
    script = daemon.base / "interpret"
    script.write_text('#!/bin/sh -e\nexport PATH=/bin:/usr/bin\neval "$1"\n')
    script.chmod(0o755)
    return Recipes(client, daemon, client.add_nar("interpret", [archive_of(script)]))


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


@pytest.mark.parametrize(
    ("lie", "status"),
    [
        ({"hash": f"sha256:{ZEROS}"}, "success"),
        ({"status": f"hash-mismatch sha256 {ZEROS} {ZEROS}"}, "hash-mismatch"),
        ({"status": "not-found"}, "not-found"),
        ({"status": "success"}, "success"),
        ({"status": "nonsense"}, "nonsense"),
        ({"on_fetch": "die"}, ""),
        ({"on_fetch": "chatter"}, ""),
        ({"after_fetch": "die"}, ""),
    ],
)
def test_a_bad_download_is_nothing(
    daemon: RunningDaemon,
    client: GuixClient,
    shelf: Shelf,
    recipes: Recipes,
    lie: dict[str, str],
    status: str,
):
    """Nothing is registered or left; the derivation is built only if that was asked for."""
    drv, output = recipes.add("program", "echo built > $out")
    shelf.offer(output, b"downloaded", **lie)
    with pytest.raises(RequestFailedError) as caught:
        client.build(drv)
    assert caught.value.message == (
        f"some substitutes for the outputs of derivation `{drv}' failed (usually happens due to "
        "networking issues); try `--fallback' to build derivation from source "
    )
    assert not client.is_valid(output)
    assert not leftovers(daemon)
    assert f"@ substituter-failed {output} {status}" in client.text
    use(client, fallback=True)
    client.build(drv)
    assert Path(output).read_text() == "built\n"


def test_a_plain_item_that_cannot_be_downloaded_is_an_error(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """One that nobody offers is none, as in the reference, unless it is to be ensured."""
    path, absent = item(daemon, 1), item(daemon, 2)
    shelf.offer(path, b"x", status="not-found")
    client.build(absent)
    with pytest.raises(RequestFailedError, match=r"^build of `.*' failed$"):
        client.build(path)
    for each in (path, absent):
        with pytest.raises(RequestFailedError, match="does not exist and cannot be created"):
            client.call(m.EnsurePath(each))
    shelf.offer(path, b"x")
    client.call(m.EnsurePath(path))
    assert client.is_valid(path)


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


def test_offers_in_a_circle_are_not_taken(daemon: RunningDaemon, client: GuixClient, shelf: Shelf):
    """Neither could be registered before the other."""
    hen, egg = item(daemon, 1, "hen"), item(daemon, 2, "egg")
    shelf.offer(hen, b"", egg)
    shelf.offer(egg, b"", hen)
    client.build(hen)
    assert not client.is_valid(hen)


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


def test_a_forged_derivation_is_not_registered(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, recipes: Recipes
):
    """It claims an output that does not follow from it."""
    victim = item(daemon, 7, "victim")
    text = unparse_derivation(recipes.complete("forged")).replace(
        recipes.complete("forged").outputs["out"].path.encode(), victim.encode()
    )
    drv = item(daemon, 1, "forged.drv")
    shelf.offer(drv, text)
    with pytest.raises(RequestFailedError):
        client.build(drv)
    assert not client.is_valid(drv)
    assert not leftovers(daemon)
