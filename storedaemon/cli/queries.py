# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that ask one thing and print the answer."""

import os
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import trio

from store.errors import StoreError
from store.hashes import HashAlgorithm
from storedaemon.cli.exits import Exit
from storedaemon.cli.lines import print_json, print_lines
from storedaemon.cli.session import connected, socket_path
from storedaemon.client.client import Client
from storedaemon.client.errors import ConnectionFailedError
from storedaemon.version import VERSION
from storedaemon.wire.native.records import path_info_map


def run(options: Namespace) -> int:
    """Run one of the commands; give the exit code."""
    return trio.run(_COMMANDS[options.command], options)


async def _add(options: Namespace) -> int:
    if options.name and len(options.paths) > 1:
        raise StoreError("--name needs a single PATH", reason="usage", status=Exit.USAGE)
    algorithm = HashAlgorithm.parse(options.hash)
    async with connected(options) as client:
        for path in options.paths:
            name = options.name or _base_name(path)
            item = await client.add_path(
                path, name, recursive=not options.flat, algorithm=algorithm
            )
            if options.json:
                print_json({"source": path, "path": item})
            else:
                print_lines([item])
    return Exit.OK


def _base_name(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


async def _path_info(options: Namespace) -> int:
    async with connected(options) as client:
        infos = [path_info_map(await client.path_info(path)) for path in options.paths]
    if options.json:
        print_json(infos)
        return Exit.OK
    for info in infos:
        print_lines(_info_lines(info))
    return Exit.OK


def _info_lines(info: Mapping[str, Any]) -> Iterable[str]:
    yield info["path"]
    yield f"  hash        {info['nar-hash']}"
    yield f"  size        {info['nar-size']}"
    registered = time.localtime(info["registration-time"])
    yield f"  registered  {time.strftime('%Y-%m-%d %H:%M:%S', registered)}"
    yield f"  deriver     {info['deriver'] or 'unknown'}"
    for reference in info["references"]:
        yield f"  refers to   {reference}"


async def _references(options: Namespace) -> int:
    async with connected(options) as client:
        if options.closure:
            found = await client.closure(options.paths)
        else:
            ask = client.referrers if options.referrers else client.references
            lists = [await ask(path) for path in options.paths]
            found = sorted({path for paths in lists for path in paths})
    if options.json:
        print_json(found)
    else:
        print_lines(found)
    return Exit.OK


async def _version(options: Namespace) -> int:
    answer: dict[str, Any] = {"client": f"storedaemon {VERSION}", "daemon": None}
    try:
        async with connected(options) as client:
            answer |= _daemon_facts(client)
    except ConnectionFailedError as error:
        answer["error"] = error.message.splitlines()[0]
    if options.json:
        print_json(answer)
    else:
        print_lines(_version_lines(answer, socket_path(options)))
    return Exit.OK if answer["daemon"] else Exit.NO_DAEMON


def _daemon_facts(client: Client) -> Mapping[str, Any]:
    daemon = client.daemon
    return {
        "daemon": daemon.daemon,
        "protocol": list(daemon.versions),
        "features": sorted(daemon.features),
        "store": daemon.store,
        "system": daemon.system,
        "trusted": daemon.trusted,
    }


def _version_lines(answer: Mapping[str, Any], socket: str) -> Iterable[str]:
    yield f"client  {answer['client']}"
    if not answer["daemon"]:
        yield f"daemon  none ({answer['error']})"
        return
    yield f"daemon  {answer['daemon']} at {socket}"
    yield f"store   {answer['store']}"
    yield f"system  {answer['system']}"
    yield f"trusted {'yes' if answer['trusted'] else 'no'}"


_COMMANDS: Mapping[str, Callable[[Namespace], Awaitable[int]]] = {
    "add": _add,
    "path-info": _path_info,
    "references": _references,
    "version": _version,
}
