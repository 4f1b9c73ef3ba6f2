# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds as Guix clients see them: the shapes and texts of the recorded conversations."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from builder.options import BuildMode
from store import base32
from store.derivations import Derivation, Output, fill_output_paths, unparse_derivation
from store.nar.events import Content, Regular
from store.nar.writer import write
from store.paths import StoreDirectory, StorePath
from storedaemon.wire import guix
from storedaemon.wire import messages as m
from storedaemon.wire.primitives import U64
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient, RequestFailedError

SYSTEM = f"{subprocess.check_output(['uname', '-m'], text=True).strip()}-linux"
HOST = tuple(f"--chroot-directory={path}" for path in ("/bin", "/usr", "/lib", "/lib64"))
DATA = Path(__file__).parents[1] / "data/transcripts"
PATH = {"PATH": "/bin:/usr/bin"}

pytestmark = pytest.mark.root


@pytest.fixture
def building(start_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """A daemon whose builders may use the machine's shell."""
    return start_daemon("--max-jobs=2", *HOST)


@pytest.fixture
def client(building: RunningDaemon) -> Iterator[GuixClient]:
    """A client that wants traces."""
    with GuixClient(building.guix_socket) as client:
        client.set_options(verbosity=0, print_build_trace=True)
        yield client


class Recipes:
    """Adds derivations that run shell scripts."""

    def __init__(self, daemon: RunningDaemon, client: GuixClient) -> None:
        self.directory = StoreDirectory(daemon.store)
        self.client = client
        # A builder must be in the store; its libraries are the machine's.
        content = Path("/bin/sh").read_bytes()
        events = [Regular(b"", True, len(content)), Content(memoryview(content))]
        self.shell = StorePath(client.add_nar("sh", map(bytes, write(events))))

    def script(
        self, name: str, text: str, *, system: str = SYSTEM, sha256: str = "", **env: str
    ) -> tuple[str, str]:
        """Add a derivation; give its path and its output's."""
        output = Output("", "sha256" if sha256 else "", sha256)
        bare = Derivation(
            {"out": output}, {}, (self.shell,), system, self.shell, ("-c", text), {**PATH, **env}
        )
        drv = fill_output_paths(bare, name, self.directory, _no_input)
        path = self.client.add_text(f"{name}.drv", unparse_derivation(drv), [self.shell])
        return path, drv.outputs["out"].path


def _no_input(path: StorePath) -> bytes:
    raise KeyError(path)


@pytest.fixture
def recipes(building: RunningDaemon, client: GuixClient) -> Recipes:
    """A way to add derivations."""
    return Recipes(building, client)


def shape(client: GuixClient) -> list[str]:
    """Give the lines shown, with what varies from run to run left out."""
    text = re.sub(r"(?m)(@ build-started .*) \d+$", r"\1 PID", client.text)
    text = re.sub(r"/gnu/store|/tmp/sd-\w+/store", "STORE", text)
    text = re.sub(r"\S*/drvs/(..)/+(\S+)", r"LOGS/\1\2", text)
    return text.splitlines()


def failure(client: GuixClient, *paths: str) -> tuple[str, int]:
    """Build what fails; give the final error and its status."""
    with pytest.raises(RequestFailedError) as caught:
        client.build(*paths)
    return caught.value.message, caught.value.status


def relative(path: str) -> str:
    """Give a store path as `shape` shows it."""
    return re.sub(r"^.*/store/", "STORE/", path)


def test_a_build_that_succeeds(client: GuixClient, recipes: Recipes):
    """Started, output, succeeded; and nothing at all when it is valid already."""
    drv, out = recipes.script("demo", "echo building; echo hello > $out")
    client.build(drv)
    hashed = relative(drv).removeprefix("STORE/")
    assert shape(client) == [
        f"@ build-started {relative(drv)} - {SYSTEM} LOGS/{hashed}.gz PID",
        "building",
        f"@ build-succeeded {relative(drv)} -",
    ]
    client.output.clear()
    client.build(drv)
    assert client.output == []
    assert client.path_info(out).deriver == drv
    assert client.derivation_outputs(drv) == (out,)
    assert client.call(m.QueryValidDerivers(out)) == m.TextsReply((drv,))
    assert client.call(m.QueryDerivationOutputNames(drv)) == m.TextsReply(("out",))


def test_a_derivation_without_outputs(client: GuixClient):
    """There is nothing to build, so its builder, which would fail, does not run."""
    text = f'Derive([],[],[],"{SYSTEM}","/bin/false",[],[])'
    drv = client.add_text("none.drv", text.encode())
    client.build(drv)
    client.build(drv, mode=BuildMode.REPAIR)
    assert client.output == []


def test_a_builder_that_fails(client: GuixClient, recipes: Recipes):
    """The builder's exit code, a trace, and status 100."""
    drv, _ = recipes.script("fails", "exit 7")
    assert failure(client, drv) == (f"build of `{drv}' failed", 100)
    text = f"builder for `{relative(drv)}' failed with exit code 7"
    assert shape(client)[1:] == [text, f"@ build-failed {relative(drv)} - 1 {text}"]


def test_a_builder_that_makes_nothing(client: GuixClient, recipes: Recipes):
    """Status 1, because another attempt might do better."""
    drv, out = recipes.script("nothing", "true")
    assert failure(client, drv) == (f"build of `{drv}' failed", 1)
    text = f"builder for `{relative(drv)}' failed to produce output path `{relative(out)}'"
    assert shape(client)[1:] == [text, f"@ build-failed {relative(drv)} - 1 {text}"]


def test_a_build_that_takes_too_long(client: GuixClient, recipes: Recipes):
    """Status 101 and a trace of its own."""
    client.set_options(build_timeout=1)
    drv, _ = recipes.script("slow", "echo started; while :; do :; done")
    assert failure(client, drv) == (f"build of `{drv}' failed", 101)
    assert shape(client)[1:] == [
        "started",
        f"building of `{relative(drv)}' timed out after 1 seconds",
        f"@ build-failed {relative(drv)} - timeout",
    ]


def test_a_builder_that_falls_silent(client: GuixClient, recipes: Recipes):
    """The same, with the silence in the text."""
    client.set_options(build_max_silent_time=1)
    drv, _ = recipes.script("silent", "echo started; while :; do :; done")
    assert failure(client, drv) == (f"build of `{drv}' failed", 101)
    assert shape(client)[1:] == [
        "started",
        f"building of `{relative(drv)}' timed out after 1 seconds of silence",
        f"@ build-failed {relative(drv)} - timeout",
    ]


def test_a_fixed_output_with_another_hash(client: GuixClient, recipes: Recipes):
    """Both hashes are traced before the failure."""
    expected, actual = (hashlib.sha256(text).digest() for text in (b"right\n", b"wrong\n"))
    drv, out = recipes.script("wronghash", "echo wrong > $out", sha256=expected.hex())
    assert failure(client, drv) == (f"build of `{drv}' failed", 1)
    hashes = f"{base32.encode(expected)} {base32.encode(actual)}"
    text = f"hash mismatch for store item '{relative(out)}'"
    assert shape(client)[1:4] == [
        f"@ hash-mismatch {relative(out)} sha256 {hashes}",
        text,
        f"@ build-failed {relative(drv)} - 1 {text}",
    ]


def test_an_absent_derivation(client: GuixClient, building: RunningDaemon):
    """It is named in a text, and no trace is sent."""
    drv = f"{building.store}/{'f' * 32}-nothing.drv"
    assert failure(client, drv) == (f"build of `{drv}' failed", 1)
    assert shape(client) == [f"cannot build missing derivation `{relative(drv)}'"]


def test_multiplexed_output_of_several_builds(client: GuixClient, recipes: Recipes):
    """Each piece of output says which build it is of; good builds go on beside a bad one."""
    client.set_options(
        keep_going=True,
        multiplexed_build_output="true",
        build_max_jobs=2,
        print_extended_build_trace=1,
    )
    good = [recipes.script(f"m{i}", f"echo line {i}; echo err >&2; echo > $out") for i in range(3)]
    bad, _ = recipes.script("bad", "echo failing; exit 3")
    assert failure(client, bad, *(drv for drv, _ in good)) == (f"build of `{bad}' failed", 100)
    pids = dict(re.findall(r"@ build-started (\S+) .* (\d+)\n", client.text))
    output: dict[str, str] = {}
    for piece in re.finditer(r"@ build-log (\d+) (\d+)\n", client.text):
        pid, length = piece.groups()
        text = client.text[piece.end() : piece.end() + int(length)]
        output[pid] = output.get(pid, "") + text
    assert [output[pids[drv]] for drv, _ in good] == [f"line {i}\nerr\n" for i in range(3)]
    assert output[pids[bad]].startswith("failing\n")
    assert all(client.is_valid(out) for _, out in good)


def test_a_second_build_that_differs(client: GuixClient, recipes: Recipes):
    """The error of a check is that of the request itself."""
    drv, out = recipes.script("nondet", "cat /proc/sys/kernel/random/uuid > $out")
    client.build(drv)
    client.output.clear()
    with pytest.raises(RequestFailedError) as caught:
        client.build(drv, mode=BuildMode.CHECK)
    assert caught.value.message == (
        f"derivation `{drv}' may not be deterministic: output `{out}' differs"
    )
    assert caught.value.status == 1
    assert [line.split()[1] for line in shape(client)] == ["build-started"]


def recorded(name: str, reply: int) -> list[str]:
    """Give the lines that the C++ daemon showed in one of its replies."""
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    turns = [json.loads(line) for line in lines]
    data = [bytes.fromhex(turn["hex"]) for turn in turns if turn["from"] == "daemon"][reply]
    text = b""
    while data.startswith(U64.pack(guix.NEXT)):
        size = U64.unpack_from(data, 8)[0]
        text += data[16 : 16 + size]
        data = data[16 + (size + 7) // 8 * 8 :]
    return text.decode().splitlines()


def words(lines: list[str]) -> list[str]:
    """Give what kind of line each is: the name of a trace, or a builder's whole line."""
    return [line.split()[1] if line.startswith("@ ") else line for line in lines]


def test_a_check_that_confirms(client: GuixClient, recipes: Recipes):
    """It succeeds once for each output and once more, as recorded; a repair says nothing."""
    drv, _ = recipes.script("demo", "echo building; echo hello > $out")
    client.build(drv)
    client.output.clear()
    client.build(drv, mode=BuildMode.CHECK)
    assert words(shape(client)) == words(recorded("check-repair-10", 3))
    client.output.clear()
    client.build(drv, mode=BuildMode.REPAIR)
    assert client.output == []


def test_a_builder_that_is_absent(client: GuixClient, recipes: Recipes):
    """It seems to start, says why it cannot go on, and fails for good."""
    absent = f"{recipes.shell}-absent"
    output = Output("")
    bare = Derivation({"out": output}, {}, (recipes.shell,), SYSTEM, absent, (), {})
    filled = fill_output_paths(bare, "absent", recipes.directory, _no_input)
    drv = client.add_text("absent.drv", unparse_derivation(filled), [recipes.shell])
    assert failure(client, drv) == (f"build of `{drv}' failed", 100)
    text = f"builder for `{relative(drv)}' failed with exit code 1"
    hashed = relative(drv).removeprefix("STORE/")
    why = f"executing `{relative(absent)}': No such file or directory"
    assert shape(client) == [
        f"@ build-started {relative(drv)} - {SYSTEM} LOGS/{hashed}.gz PID",
        f"while setting up the child process: in phase exec: {why}",
        text,
        f"@ build-failed {relative(drv)} - 1 {text}",
    ]


def test_rounds_that_differ(client: GuixClient, recipes: Recipes):
    """Unlike after a check, clients learn that a build they saw begin has failed."""
    client.set_options(build_repeat=1, print_extended_build_trace=1)
    drv, out = recipes.script("uneven", "cat /proc/sys/kernel/random/uuid > $out")
    assert failure(client, drv) == (f"build of `{drv}' failed", 1)
    text = f"output `{relative(out)}' of `{relative(drv)}' differs from previous round"
    assert shape(client)[-2:] == [text, f"@ build-failed {relative(drv)} - 1 {text}"]


def test_output_is_hidden_from_those_who_want_less(client: GuixClient, recipes: Recipes):
    """A verbosity below the build verbosity hides builders' output, but no trace."""
    client.set_options(verbosity=0, build_verbosity=1)
    drv, _ = recipes.script("quiet", "echo noise; echo > $out")
    client.build(drv)
    assert [line.split()[1] for line in shape(client)] == ["build-started", "build-succeeded"]


def test_a_client_that_hangs_up_ends_what_only_it_wanted(building: RunningDaemon, recipes: Recipes):
    """The builder dies, although it never writes a byte."""
    drv, _ = recipes.script("endless", "echo up; while :; do read x < /dev/zero || :; done")
    before = len(building.descendants())
    with GuixClient(building.guix_socket) as other:
        other.set_options()
        other.send_only(m.BuildPaths((drv,)))
        while "up" not in other.text:
            other.next_event()
    wait_until(lambda: len(building.descendants()) <= before)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something."""

    async def wait() -> None:
        with trio.fail_after(20):
            while not condition():
                await trio.sleep(0.01)

    trio.run(wait)
