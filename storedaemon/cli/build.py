# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon build`: derivations, or the recipes of a file, with progress on the way."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from builder.options import BuildMode
from store.errors import StoreError
from store.paths import StorePath
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.reporters import Reporter, make_reporter
from storedaemon.cli.session import connected
from storedaemon.cli.substitutes import print_outlook
from storedaemon.client.builds import Build, BuildWishes
from storedaemon.client.client import Client
from storedaemon.client.instantiate import instantiate
from storedaemon.client.recipes import is_recipe_file, load_recipe

_TICK_SECONDS = 0.25

Outputs = Mapping[StorePath, Mapping[str, StorePath]]


def run(options: Namespace) -> int:
    """Build; give the exit code."""
    return trio.run(_build, options)


async def _build(options: Namespace) -> int:
    async with connected(options) as client:
        targets = await _derivations(client, options.targets)
        if options.dry_run:
            print_outlook(await client.plan(targets, _wishes(options)), options)
            return Exit.OK
        if options.detach:
            return tell_detached(await client.build_detached(targets, _wishes(options)), options)
        outputs = await follow(client.build(targets, _wishes(options)), options)
        if options.link:
            await _link(client, _absolute(options.link), outputs)
    print_result(outputs, options)
    return Exit.OK


def tell_detached(number: int, options: Namespace) -> int:
    """Say how to come back to a build that nobody waits for."""
    if options.json:
        print_json({"detached": number})
    else:
        print_lines([str(number)])
        sys.stderr.write(f"detached; 'storedaemon attach {number}' follows it\n")
    return Exit.OK


async def _derivations(client: Client, targets: Sequence[str]) -> list[str]:
    """Give the derivations to build, after adding those of a recipe file to the store."""
    if not any(map(is_recipe_file, targets)):
        return list(targets)
    if not is_recipe_file(targets[0]) or any(map(is_recipe_file, targets[1:])):
        raise StoreError(
            "a recipe file comes first, and alone; names of its derivations may follow",
            reason="usage",
            status=Exit.USAGE,
        )
    file = load_recipe(targets[0])
    chosen = file.select(targets[1:])
    instances = await instantiate(client, file, chosen)
    return [instances[name].drv for name in chosen]


async def follow(asked: AbstractAsyncContextManager[Build], options: Namespace) -> Outputs:
    """Show a build's events until it ends, and give its outputs."""
    reporter = make_reporter(options)
    try:
        async with asked as build, trio.open_nursery() as nursery:
            nursery.start_soon(_tick, reporter)
            async for event in build:
                reporter.event(event)
            outputs = await build.outputs()
            nursery.cancel_scope.cancel()
    finally:
        reporter.close()
    return outputs


async def _tick(reporter: Reporter) -> None:
    while True:
        await trio.sleep(_TICK_SECONDS)
        reporter.tick()


def _wishes(options: Namespace) -> BuildWishes:
    mode = BuildMode.CHECK if options.check else BuildMode.NORMAL
    return BuildWishes(
        mode=BuildMode.REPAIR if options.repair else mode,
        keep_failed=options.keep_failed,
        keep_going=options.keep_going,
        cores=options.cores,
        max_jobs=options.max_jobs,
        timeout=options.timeout,
        max_silent_time=options.max_silent_time,
        rounds=options.rounds,
        substitutes=False if options.no_substitutes else None,
        fallback=options.fallback,
        substitute_urls=options.substitute_urls,
        no_offload=options.no_offload,
        attempts=options.attempts,
        retry_delay=options.retry_delay,
        retry_cores=options.retry_cores,
    )


async def _link(client: Client, link: Path, outputs: Outputs) -> None:
    """Point a symbolic link at the only output, and let it keep that output."""
    paths = [path for named in outputs.values() for path in named.values()]
    if len(paths) != 1:
        raise StoreError(f"--link needs one output to point at, and there are {len(paths)}")
    _replace_link(link, paths[0])
    await client.add_root(str(link))


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _replace_link(link: Path, target: StorePath) -> None:
    """Put a link in the place of another; anything but a link stays, and is an error."""
    if os.path.lexists(link) and not link.is_symlink():
        raise FileExistsError(17, "exists, and is no symbolic link", str(link))
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)


def print_result(outputs: Outputs, options: Namespace) -> None:
    """Print the paths of what was built."""
    if options.json:
        sys.stdout.write(json.dumps({"event": "done", "outputs": outputs}) + "\n")
        return
    for named in outputs.values():
        for path in named.values():
            sys.stdout.write(f"{path}\n")
