# SPDX-License-Identifier: GPL-3.0-or-later
"""Substitutes with a real daemon, a real program that serves them, and real clients."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from builder.events import SubstituteProgress, SubstituteSucceeded
from builder.options import BuildMode
from store.derivation_checks import DerivationChecker
from store.derivations import Derivation, Output, unparse_derivation
from store.paths import StoreDirectory, StorePath
from storedaemon.client.builds import BuildWishes
from storedaemon.client.client import connect
from storedaemon.client.errors import DaemonError
from storedaemon.wire import messages as m
from tests.soundness import leftovers, unsound_items, wait_for_nothing
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


def is_running(pid: int) -> bool:
    """Tell whether a process is there."""
    return os.path.exists(f"/proc/{pid}")


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


def test_a_client_that_leaves_ends_its_download(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """The program that hangs is ended, and its place is free for others."""
    paths = [item(daemon, number) for number in range(1, 6)]
    for path in paths[:4]:
        shelf.offer(path, b"x", on_fetch="hang")
    shelf.offer(paths[4], b"x")
    client.send_only(m.BuildPaths(tuple(paths[:4])))
    while client.text.count("going to hang") < 4:
        client.next_event()
    hanging = {pid for pid, line, _ in shelf.notes() if line.startswith("substitute")}
    client.socket.close()
    with GuixClient(daemon.guix_socket) as other:
        use(other)
        other.build(paths[4])
    assert not wait_for_nothing(lambda: [str(pid) for pid in hanging if is_running(pid)])
    assert not leftovers(daemon)


def test_a_client_that_leaves_ends_a_question(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """Only the program that hangs is ended; others' questions are answered by the next."""
    hung, other_item = item(daemon, 1), item(daemon, 2)
    shelf.offer(hung, b"x", on_query="hang")
    shelf.offer(other_item, b"x")
    client.send_only(m.HasSubstitutes(hung))
    while "going to hang" not in client.text:
        client.next_event()
    with GuixClient(daemon.guix_socket) as other:
        use(other)
        other.send_only(m.HasSubstitutes(other_item))
        client.socket.close()
        assert other.wait() == m.Truth(value=True)
    [first, second] = [pid for pid, line, _ in shelf.notes() if line == "start --query"]
    assert not wait_for_nothing(lambda: [str(first)] if is_running(first) else [])
    assert is_running(second)


def test_a_program_that_dies_is_named_and_replaced(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf
):
    """Its last words reach the client."""
    bad, good = item(daemon, 1), item(daemon, 2)
    shelf.offer(bad, b"x", on_query="die")
    shelf.offer(good, b"x")
    with pytest.raises(RequestFailedError, match=r"`.*/guix substitute' died unexpectedly"):
        client.call(m.HasSubstitutes(bad))
    assert "substitute: I am going to die" in client.text
    with pytest.raises(RequestFailedError, match="died unexpectedly"):
        client.build(bad)
    assert client.call(m.HasSubstitutes(good)) == m.Truth(value=True)


@pytest.mark.parametrize(
    "lie",
    [
        {"on_query": "chatter"},
        {"size": "many"},
        {"deriver": "/etc/passwd"},
        {"references": ["/etc/passwd"]},
        {"size": 2**64},
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(
    daemon: RunningDaemon, client: GuixClient, shelf: Shelf, lie: dict[str, str]
):
    """It ends the program, and nothing else."""
    path = item(daemon, 1)
    shelf.offer(path, b"x")
    shelf.offer(path, b"x", **lie)
    with pytest.raises(RequestFailedError):
        client.build(path)
    assert not client.is_valid(path)
    shelf.offer(path, b"x")
    client.build(path)


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
    command = [sys.executable, "-m", "storedaemon", "--socket", daemon.native_socket]

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False)

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
