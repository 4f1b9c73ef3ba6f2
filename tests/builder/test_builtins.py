# SPDX-License-Identifier: GPL-3.0-or-later
"""Who serves the builders that are part of the daemon, and with what."""

import pytest

from builder.builtins import (
    Builtins,
    Manner,
    Toolkit,
    downloader_command,
    downloader_operations,
    guix_command,
    items_of,
    request_for,
)
from builder.container import Bind, File
from builder.download.request import decode
from builder.options import BuildMode
from store.derivations import Derivation, Output

TOOLKIT = Toolkit("/py/bin/python3", ("/py", "/usr/lib"), "/code/download")
WITH_GIT = Toolkit("/py/bin/python3", ("/py", "/usr/lib"), "/code/download", git="/usr/bin/git")
DIGEST = "00" * 31 + "ff"


def _derivation(builder: str, **env: str) -> Derivation:
    outputs = {"out": Output("/s/abc-file.tar", "sha256", DIGEST)}
    return Derivation(outputs, {}, (), "x86_64-linux", builder, (), env)


@pytest.mark.parametrize(
    ("builtins", "names"),
    [
        (Builtins(), ["download"]),
        (Builtins(toolkit=TOOLKIT), ["download"]),
        (Builtins(toolkit=WITH_GIT), ["download", "git-download"]),
        (Builtins(guix="/g"), ["download", "git-download"]),
    ],
)
def test_what_can_be_served_is_told_and_downloads_always(builtins: Builtins, names: list[str]):
    """Guix makes derivations by that."""
    assert builtins.names() == names


def test_guix_goes_first_but_for_checks_and_repairs():
    """Those need a container, which it is never in."""
    download = _derivation("builtin:download")
    both = Builtins(guix="/g", toolkit=TOOLKIT)
    assert both.manner(download, BuildMode.NORMAL) is Manner.GUIX
    assert both.manner(download, BuildMode.CHECK) is Manner.DOWNLOADER
    assert both.manner(_derivation("builtin:git-download"), BuildMode.CHECK) is Manner.GUIX
    assert both.manner(_derivation("builtin:other"), BuildMode.NORMAL) is None
    assert both.manner(_derivation("/s/abc-sh"), BuildMode.NORMAL) is Manner.BUILDER


def test_guix_is_told_derivation_and_output():
    """Its environment says which store that is, and nothing that the derivation says."""
    drv = _derivation("builtin:download", GUILE_LOAD_PATH="/s/evil")
    command = guix_command(
        "/bin/guix", "/s/x.drv", drv, {"PATH": "/b"}, store="/s", directory="/build", traces=True
    )
    assert command.program == b"/bin/guix"
    assert command.arguments == (b"guix", b"perform-download", b"/s/x.drv", b"/s/abc-file.tar")
    told = dict(command.environment)
    assert told.keys() == {b"PATH", b"PWD", b"NIX_STORE", b"NIX_STORE_DIR", b"_NIX_OPTIONS"}
    assert told[b"NIX_STORE"] == told[b"NIX_STORE_DIR"] == b"/s"
    assert b"print-extended-build-trace=1" in told[b"_NIX_OPTIONS"]
    assert command.directory == "/build"


def test_a_derivations_variables_do_not_reach_the_interpreter():
    """Through them, a loader would run what a client brings."""
    drv = _derivation("builtin:download", url='"http://x/"', LD_PRELOAD="/s/evil.so")
    environment = {**drv.env, "http_proxy": "http://p"}
    request = request_for(Builtins(toolkit=TOOLKIT), "/s/x.drv", drv, environment, traces=False)
    names = dict(downloader_command(TOOLKIT, "/build").environment)
    assert set(names) == {b"PATH", b"HOME"}
    assert request.proxies == (("http_proxy", "http://p"),)
    assert (request.name, request.hash16, request.flat) == ("file.tar", DIGEST, True)
    [text] = [
        each.contents
        for each in downloader_operations(TOOLKIT, request)
        if isinstance(each, File) and each.target.endswith(".json")
    ]
    assert decode(text) == request


def test_only_what_is_needed_is_shown():
    """All programs are there only where git needs them; what lies below another is not bound."""
    shown = {}
    for kind in ("download", "git-download"):
        drv = _derivation(f"builtin:{kind}", url='"http://x/"')
        request = request_for(Builtins(toolkit=WITH_GIT), "/s/x.drv", drv, {}, traces=False)
        operations = downloader_operations(WITH_GIT, request)
        shown[kind] = {each.source for each in operations if isinstance(each, Bind)}
    assert "/usr" not in shown["download"]
    assert "/usr" in shown["git-download"]
    assert "/usr/lib" not in shown["git-download"]


def test_an_interpreter_in_the_store_brings_its_item():
    """The container sees items of the store one by one."""
    toolkit = Toolkit("/s/aaa-python/bin/python3", (), "/s/bbb-daemon/lib/builder/download")
    assert items_of(toolkit, "/s") == ["/s/aaa-python", "/s/bbb-daemon"]
    assert items_of(TOOLKIT, "/s") == []
