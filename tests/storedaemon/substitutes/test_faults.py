# SPDX-License-Identifier: GPL-3.0-or-later
"""Substitute programs that lie, hang or die, and clients that leave."""

from pathlib import Path

import pytest

from store.derivations import unparse_derivation
from storedaemon.wire import messages as m
from tests.soundness import leftovers, wait_for_nothing
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError
from tests.storedaemon.substitutes.bench import ZEROS, Recipes, is_running, item, use
from tests.storedaemon.substitutes.server import Shelf


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


def test_offers_in_a_circle_are_not_taken(daemon: RunningDaemon, client: GuixClient, shelf: Shelf):
    """Neither could be registered before the other."""
    hen, egg = item(daemon, 1, "hen"), item(daemon, 2, "egg")
    shelf.offer(hen, b"", egg)
    shelf.offer(egg, b"", hen)
    client.build(hen)
    assert not client.is_valid(hen)


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
