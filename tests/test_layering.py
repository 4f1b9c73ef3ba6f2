# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports run one way, and what must stay small or pure stays so."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGES = ("storedaemon", "store", "builder", "locker", "reaper")

MAY_IMPORT = {
    "storedaemon": {"storedaemon", "builder", "store", "locker", "reaper"},
    "builder": {"builder", "store", "locker", "reaper"},
    "store": {"store", "locker", "reaper"},
    "locker": {"locker"},
    "reaper": {"reaper"},
}

PURE = (
    "storedaemon/wire",
    "storedaemon/option_table.py",
    "storedaemon/session_options.py",
    "store/aterm.py",
    "store/base32.py",
    "store/derivations.py",
    "store/hashes.py",
    "store/nar/reader.py",
    "store/nar/writer.py",
    "store/paths.py",
    "store/exports/format.py",
    "store/exports/reader.py",
    "store/signatures/acl.py",
    "store/signatures/canonical.py",
    "store/signatures/protocol.py",
    "builder/builtins.py",
    "builder/container.py",
    "builder/download/progress.py",
    "builder/download/request.py",
    "builder/download/scheme.py",
    "builder/download/urls.py",
    "builder/environment.py",
    "builder/events.py",
    "builder/planning/graph.py",
    "builder/options.py",
    "builder/plan.py",
)
"""Modules and packages that only compute: no socket, no event loop, no file."""

EFFECTS = {"apsw", "asyncio", "fcntl", "os", "select", "socket", "subprocess", "threading", "trio"}

HELPERS = (
    "locker.main",
    "builder.spawner.main",
    "store.worker.main",
    "store.signatures.server",
)
"""What helper processes run: they start fast, and the spawner never has a thread."""


def modules(path: str) -> Iterator[Path]:
    """The source files at a path, which must exist."""
    found = ROOT / path
    files = [found] if found.is_file() else sorted(found.rglob("*.py"))
    assert files, f"{path} has no modules"
    yield from files


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """The full names of what a file imports, wherever in it, and the lines."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: relative import"
            yield node.module or "", node.lineno


def loaded_by(names: str) -> set[str]:
    """All modules that a fresh interpreter has when it has imported some."""
    code = f"import {names}, sys; print(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, cwd="/"
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str):
    """A package imports only those below it."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in modules(package)
        for name, line in imports(file)
        if (top := name.partition(".")[0]) in PACKAGES and top not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("path", PURE)
def test_pure_modules_import_nothing_that_acts(path: str):
    """What only computes has no way to do anything else."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in modules(path)
        for name, line in imports(file)
        if name.partition(".")[0] in EFFECTS and name != "os.path"
    ]
    assert wrong == []


@pytest.mark.parametrize("module", HELPERS)
def test_helpers_have_no_event_loop(module: str):
    """A helper process never loads trio, nor what only the daemon needs."""
    loaded = loaded_by(module)
    assert module in loaded
    assert loaded.isdisjoint({"trio", "asyncio", "structlog", "storedaemon", "apsw"})


@pytest.mark.parametrize(
    "module", ["storedaemon.cli.main", "storedaemon.cli.serve", "storedaemon.guix_daemon.main"]
)
def test_reading_options_needs_neither_builder_nor_event_loop(module: str):
    """The command line answers at once, and a daemon listens as soon as it can."""
    loaded = loaded_by(f"{module}, storedaemon.serve")
    assert "storedaemon.option_table" in loaded
    assert loaded.isdisjoint({"builder", "locker", "reaper", "trio", "structlog", "apsw", "cbor2"})


def test_the_first_reply_waits_for_nothing_that_builds():
    """The daemon answers questions before it has imported what it needs for other requests."""
    loaded = loaded_by("storedaemon.daemon")
    assert "storedaemon.sessions.guix_queries" in loaded
    assert loaded.isdisjoint(
        {"builder.build", "builder.spawner.client", "store.worker.client", "storedaemon.services"}
    )


def test_the_check_sees_imports_within_functions(tmp_path: Path):
    """An import that is hidden in a function counts."""
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import trio.lowlevel\n    from store import paths\n")
    assert list(imports(file)) == [("trio.lowlevel", 2), ("store", 3)]


def test_the_downloader_needs_nothing_but_the_standard_library():
    """Its container has nothing else."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in modules("builder/download")
        for name, line in imports(file)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not name.startswith("builder.download")
    ]
    assert wrong == []
