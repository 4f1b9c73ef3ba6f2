# SPDX-License-Identifier: GPL-3.0-or-later
"""`builtin:download`, done by our own downloader from a real web server."""

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from builder import users
from builder.events import FailureKind, HashMismatch
from builder.users import BuildUser
from store.derivations import Derivation, Output
from store.nar.hash import nar_hash_of
from store.paths import StorePath
from tests.builder.real import web
from tests.builder.real.conftest import SYSTEM, OpenYard, Yard
from tests.builder.real.web import TEXT

BUILD_USER = BuildUser("builder1", 30181, 30180, (30180,))
DIGEST = sha256(TEXT).hexdigest()


async def _download(
    yard: Yard,
    url: Any,
    fixed: tuple[str, str] = ("sha256", DIGEST),
    builder: str = "builtin:download",
    name: str = "file.tar",
    **env: str,
) -> StorePath:
    """Add a derivation that downloads; `url` is a text or a list."""
    text = json.dumps(url) if isinstance(url, str) else f"({' '.join(map(json.dumps, url))})"
    sources = tuple(StorePath(env[each]) for each in ("mirrors",) if each in env)
    bare = Derivation(
        outputs={"out": Output("", *fixed)},
        input_derivations={},
        input_sources=sources,
        system=SYSTEM,
        builder=builder,
        args=(),
        env={"url": text, **env},
    )
    return await yard.add_described(bare, name)


def _nar_hash(path: Path) -> str:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        return nar_hash_of(fd, path.name)[0].value.hex()
    finally:
        os.close(fd)


async def test_a_file_is_downloaded(yard: Yard):
    """It is in the store as if a builder had made it."""
    with web.serve() as site:
        site.files["/file.tar"] = web.content(TEXT)
        drv = await _download(yard, site.url("/file.tar"))
        await yard.build(drv)
    assert Path(yard.output(drv)).read_bytes() == TEXT
    assert stat.S_IMODE(os.stat(yard.output(drv)).st_mode) == 0o444
    assert "@ download" not in yard.log()


@pytest.mark.root
async def test_a_build_user_downloads(open_yard: OpenYard, monkeypatch: pytest.MonkeyPatch):
    """The downloader has no more rights than a builder."""
    monkeypatch.setattr(users, "members", lambda _group: [BUILD_USER])
    async with open_yard(build_users_group="builders") as yard:
        yard.base.chmod(0o755)
        with web.serve() as site:
            site.files["/file.tar"] = web.content(TEXT)
            await yard.build(await _download(yard, site.url("/file.tar")))


async def test_progress_is_told_as_guix_does(yard: Yard):
    """Clients that ask for it draw bars from these lines."""
    with web.serve() as site:
        site.files["/file.tar"] = web.content(TEXT)
        drv = await _download(yard, site.url("/file.tar"))
        await yard.build(drv, download_traces=True)
    what = f"{yard.output(drv)} {site.url('/file.tar')}"
    size = len(TEXT)
    lines = [line for line in yard.log().splitlines() if line.startswith("@ ")]
    assert lines == [
        f"@ download-started {what} {size}",
        f"@ download-progress {what} {size} {size}",
        f"@ download-succeeded {what} {size}",
    ]


async def test_a_broken_connection_is_taken_up_where_it_broke(yard: Yard):
    """Each attempt asks for the rest."""
    with web.serve() as site:
        site.files["/file.tar"] = web.cut(TEXT, len(TEXT) // 2 + 1)
        drv = await _download(yard, site.url("/file.tar"))
        await yard.build(drv)
    assert Path(yard.output(drv)).read_bytes() == TEXT
    assert site.asked == [("/file.tar", ""), ("/file.tar", f"bytes={len(TEXT) // 2 + 1}-")]


async def test_mirrors_and_further_urls_are_tried_in_turn(yard: Yard):
    """A missing file, then one with other content, then the right one."""
    with web.serve() as site:
        site.files["/b/dir/file.tar"] = web.content(b"something else")
        site.files["/right"] = web.content(TEXT)
        text = f'((gnu "{site.url("/a/")}" "{site.url("/b")}") (other "ftp://x/"))'
        mirrors = await yard.add_text("mirrors", text.encode())
        urls = ["mirror://gnu/dir/file.tar", site.url("/right")]
        drv = await _download(yard, urls, mirrors=mirrors)
        await yard.build(drv)
    assert [path for path, _ in site.asked] == ["/a/dir/file.tar", "/b/dir/file.tar", "/right"]
    assert Path(yard.output(drv)).read_bytes() == TEXT


async def test_content_is_found_where_the_owner_says(open_yard: OpenYard):
    """The daemon's own mirrors know files by their hash; those a derivation names are no code."""
    with web.serve() as site:
        site.files[f"/sha256/{DIGEST}/file.tar"] = web.content(TEXT)
        template = site.url("/{algorithm}/{base16}/{name}")
        async with open_yard(content_mirrors=(template,)) as yard:
            drv = await _download(yard, site.url("/gone"))
            await yard.build(drv)
            assert Path(yard.output(drv)).read_bytes() == TEXT


async def test_wrong_content_is_told_with_both_hashes(yard: Yard):
    """As with any fixed output, so that people can correct their recipes."""
    with web.serve() as site:
        site.files["/file.tar"] = web.content(b"other")
        env = {"download-methods": "(upstream)"}
        failed = await yard.failure(await _download(yard, site.url("/file.tar"), **env))
    assert failed.kind is FailureKind.OUTPUT_REJECTED
    assert any(isinstance(event, HashMismatch) for event in yard.told)


async def test_an_executable_is_one(yard: Yard, tmp_path: Path):
    """Its hash is that of the archive, which tells so."""
    model = tmp_path / "model"
    model.write_bytes(TEXT)
    model.chmod(0o555)
    with web.serve() as site:
        site.files["/tool"] = web.content(TEXT)
        fixed = ("r:sha256", _nar_hash(model))
        drv = await _download(yard, site.url("/tool"), fixed, executable="1")
        await yard.build(drv)
    assert os.access(yard.output(drv), os.X_OK)


async def test_downloads_are_checked_and_repaired(yard: Yard):
    """What is in the store already is made again elsewhere."""
    with web.serve() as site:
        site.files["/file.tar"] = web.content(TEXT)
        drv = await _download(yard, site.url("/file.tar"))
        await yard.build(drv)
        await yard.check(drv)
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "/loop", "ftp://127.0.0.1/x", "http://[nonsense", "gopher://x/"],
)
async def test_hostile_redirections_lead_nowhere(yard: Yard, location: str):
    """Neither to files, nor for ever, nor to other protocols."""
    with web.serve() as site:
        site.files["/loop"] = web.moved(location)
        env = {"download-methods": "(upstream)"}
        failed = await yard.failure(await _download(yard, site.url("/loop"), **env))
    assert "failed with exit code 1" in failed.message
    assert "redirection" in yard.log()
    assert len(site.asked) <= 11


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "FILE:/etc/passwd"])
async def test_files_of_the_machine_are_no_downloads(yard: Yard, url: str):
    """Whoever asks: what a client may read, it can add itself."""
    await yard.failure(await _download(yard, url))
    assert "local file" in yard.log() or "can't be decoded" in yard.log()


async def test_a_download_has_a_limit(open_yard: OpenYard):
    """A server's word does not fill the disk."""
    async with open_yard(max_download_size=1000) as yard:
        with web.serve() as site:
            site.files["/file.tar"] = web.content(TEXT)
            env = {"download-methods": "(upstream)"}
            await yard.failure(await _download(yard, site.url("/file.tar"), **env))
        assert "more than 1000 bytes" in yard.log()


async def test_only_what_is_served_is_built(yard: Yard):
    """Names that nobody knows, and outputs whose content nobody states, are refused."""
    failed = await yard.failure(await _download(yard, "http://x/", builder="builtin:upload"))
    assert failed.message == "unsupported builtin function 'upload'"
    failed = await yard.failure(await _download(yard, "http://x/", ("", "")))
    assert "is not a fixed-output derivation" in failed.message
    assert "download" in yard.building.builtins.names()


async def test_without_a_container_nothing_is_served(open_yard: OpenYard):
    """Our own downloader reads what strangers send, and is never run without one.

    Clients are told of downloads all the same: they may have nothing to download.
    """
    async with open_yard(use_chroot=False) as yard:
        assert yard.building.builtins.names() == ["download"]
        failed = await yard.failure(await _download(yard, "http://x/"))
        assert failed.message == "unsupported builtin function 'download'"


STUB = """#!/bin/sh
echo "$@" >&2
echo "uid $(/usr/bin/id -u) in $PWD, store $NIX_STORE, content <$content>" >&2
echo "options $_NIX_OPTIONS" >&2
printf 'made by guix' >"$3"
"""


@pytest.mark.root
async def test_guix_downloads_where_it_is(open_yard: OpenYard, monkeypatch: pytest.MonkeyPatch):
    """As a build user without a container, so nothing of a derivation's environment is in its."""
    monkeypatch.setattr(users, "members", lambda _group: [BUILD_USER])
    stub = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="sd-guix")) / "guix"
    stub.write_text(STUB)
    for path in (stub, stub.parent):
        path.chmod(0o755)
    try:
        async with open_yard(build_users_group="builders", guix=str(stub)) as yard:
            yard.base.chmod(0o755)
            (yard.base / "builds").chmod(0o755)
            Path(yard.layout.store).chmod(0o1777)
            assert yard.building.builtins.names() == ["download", "git-download"]
            fixed = ("sha256", sha256(b"made by guix").hexdigest())
            drv = await _download(yard, "http://x/y", fixed, content="evil")
            await yard.build(drv, download_traces=True)
            log, output = yard.log(), yard.output(drv)
            assert Path(output).read_bytes() == b"made by guix"
            assert os.stat(output).st_uid == 0
            assert log.splitlines()[0] == f"perform-download {drv} {output}"
            assert f"uid 30181 in {yard.base}/builds/" in log
            assert f"store {yard.layout.store}, content <>\n" in log
            assert "options print-extended-build-trace=1" in log
    finally:
        shutil.rmtree(stub.parent)


async def test_guix_is_not_asked_where_it_would_refuse(open_yard: OpenYard, tmp_path: Path):
    """It does so for root; then our own downloader is there."""
    (tmp_path / "guix").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "guix").chmod(0o755)
    if os.geteuid() != 0:
        pytest.skip("whoever is not root may ask it")
    async with open_yard(guix=str(tmp_path / "guix")) as yard:
        with web.serve() as site:
            site.files["/file.tar"] = web.content(TEXT)
            await yard.build(await _download(yard, site.url("/file.tar")))


needs_git = pytest.mark.skipif(not os.path.exists("/usr/bin/git"), reason="git is not installed")


def _git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=N", "-c", "user.email=n@example.org")
    done = subprocess.run(
        ["/usr/bin/git", *identity, *arguments],
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _repository(top: Path) -> tuple[Path, str, str]:
    """Make a repository of two commits; give it and them."""
    work = top / "work"
    work.mkdir()
    _git(work, "init", "-q", "--initial-branch=main")
    commits = []
    for text in ("one", "two"):
        (work / "file").write_text(text)
        _git(work, "add", "file")
        _git(work, "commit", "-q", "-m", text)
        commits.append(_git(work, "rev-parse", "HEAD"))
    _git(top, "clone", "-q", "--bare", "work", "bare.git")
    _git(top / "bare.git", "update-server-info")
    return top / "bare.git", commits[0], commits[1]


@needs_git
async def test_a_commit_is_downloaded_without_what_is_gits(yard: Yard, tmp_path: Path):
    """From a server that cannot give a single commit, everything is fetched instead."""
    bare, first, _ = _repository(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "file").write_text("one")
    with web.serve() as site:
        for path in bare.rglob("*"):
            if path.is_file():
                site.files[f"/r.git/{path.relative_to(bare)}"] = web.content(path.read_bytes())
        fixed = ("r:sha256", _nar_hash(model))
        # git asks with a query
        site.files["/r.git/info/refs?service=git-upload-pack"] = site.files["/r.git/info/refs"]
        drv = await _download(
            yard, site.url("/r.git"), fixed, "builtin:git-download", "checkout", commit=first
        )
        await yard.build(drv)
    assert os.listdir(yard.output(drv)) == ["file"]
    assert "fetching everything" in yard.log()


@contextmanager
def _git_daemon(top: Path) -> Iterator[int]:
    """Serve repositories by git's own protocol; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["/usr/bin/git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr"]
    done = subprocess.Popen(
        [*command, "--export-all", "--verbose", f"--base-path={top}"], stderr=subprocess.PIPE
    )
    assert done.stderr is not None
    assert b"Ready to rumble" in done.stderr.readline()
    try:
        yield port
    finally:
        done.terminate()
        done.communicate()


@needs_git
@pytest.mark.parametrize("fails", [False, True])
async def test_a_single_commit_is_enough(yard: Yard, tmp_path: Path, *, fails: bool):
    """A server of git's own protocol gives no more than is asked for."""
    _, _, last = _repository(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "file").write_text("two")
    fixed = ("r:sha256", _nar_hash(model))
    commit = "0" * 40 if fails else last
    with _git_daemon(tmp_path) as port:
        drv = await _download(
            yard,
            f"git://localhost:{port}/bare.git",
            fixed,
            "builtin:git-download",
            "checkout",
            commit=commit,
        )
        if fails:
            await yard.failure(drv)
        else:
            await yard.build(drv)
    assert ("fetching everything" in yard.log()) is fails
    assert os.path.exists(yard.output(drv)) is not fails


@needs_git
@pytest.mark.parametrize(
    ("url", "commit"),
    [("ext::sh -c id", "main"), ("file:///tmp/x", "main"), ("http://x/y", "--upload-pack=id")],
)
async def test_git_is_told_nothing_hostile(yard: Yard, url: str, commit: str):
    """Neither commands as URLs, nor options as commits, nor files of the machine."""
    drv = await _download(
        yard, url, ("r:sha256", DIGEST), "builtin:git-download", "checkout", commit=commit
    )
    await yard.failure(drv)
    assert "error: " in yard.log()
    assert not os.path.exists(yard.output(drv))
