# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports beside builds of the same items."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.signatures import keyring
from store.signatures.gcrypt import Gcrypt
from store.signatures.keys import sign
from tests.storedaemon import exporting

pytestmark = pytest.mark.slow

HOST = [path for path in ("/usr", "/bin", "/lib", "/lib64") if os.path.isdir(path)]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A configuration directory with a key."""
    exporting.make_keys(str(tmp_path / "etc"))
    return tmp_path / "etc"


@pytest.fixture
def daemon(start_daemon: Callable[..., Any], etc: Path, tmp_path: Path) -> Any:
    """A daemon with a key, whose builders see a directory of the test's."""
    (tmp_path / "gate").mkdir()
    os.mkfifo(tmp_path / "gate/fifo")
    directories = [f"--chroot-directory={path}" for path in [*HOST, f"/gate={tmp_path}/gate"]]
    return start_daemon(
        *directories, "--configuration-directory", str(etc), "--guix-program", "/nonexistent"
    )


def signed(etc: Path, part: bytes) -> bytes:
    """Write an item that the key signed."""
    gcrypt = Gcrypt.load()
    pair = keyring.load_pair(gcrypt, str(etc / "signing-key.sec"))
    signature = sign(gcrypt, pair, bytes.fromhex(exporting.digest(part)))
    return exporting.item(part, signature) + exporting.number(0)


def test_an_import_waits_for_a_build_of_the_same_item(
    connect: Callable[..., Any], tools: Any, etc: Path, tmp_path: Path
):
    """The build's result stays, and the import finds it valid."""
    client = connect()
    script = "#!/bin/sh\nread x < /gate/fifo; echo built > $out\n"
    builder = client.add_script("builder", script)
    drv = client.ask("add-derivation", name="item", builder=builder, sources=[builder])
    out = drv["outputs"]["out"]
    build = client.begin("build", targets=[drv["path"]])
    # Opening it waits for the builder, which holds the item's lock by then.
    with (tmp_path / "gate/fifo").open("w") as gate:
        importer = connect()
        stream = signed(etc, exporting.signed_part(exporting.nar(b"imported\n"), out))
        request = importer.begin("import")
        importer.send(tools.chunk(request, stream), tools.end(request))
        # Whatever it asks for is answered, the import is not.
        assert importer.ask("is-valid", path=out) == {"valid": False}
        gate.write("go\n")
    answer, _ = client.finish(build)
    assert answer["type"] == "reply", answer
    answer, _ = importer.finish(request)
    assert answer["result"] == {"paths": [out]}
    assert Path(out).read_text() == "built\n"
    assert client.ask("path-info", path=out)["deriver"] == drv["path"]


def test_a_build_uses_what_was_imported(connect: Callable[..., Any], tools: Any, etc: Path):
    """Nothing is built that somebody who is trusted has built elsewhere; the deriver is known."""
    client = connect()
    builder = client.add_script("builder", "#!/bin/sh\nexit 7\n")
    drv = client.ask("add-derivation", name="item", builder=builder, sources=[builder])
    out = drv["outputs"]["out"]
    part = exporting.signed_part(exporting.nar(b"imported\n"), out, [builder], drv["path"])
    request = client.begin("import")
    client.send(tools.chunk(request, signed(etc, part)), tools.end(request))
    assert client.finish(request)[0]["result"] == {"paths": [out]}
    answer, _ = client.finish(client.begin("build", targets=[drv["path"]]))
    assert answer["type"] == "reply", answer
    info = client.ask("path-info", path=out)
    assert (info["references"], info["deriver"]) == ([builder], drv["path"])
