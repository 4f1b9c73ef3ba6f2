# SPDX-License-Identifier: GPL-3.0-or-later
"""`storedaemon substitutes`: which items can be downloaded; and what a build would download."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable

import trio

from builder.substitution.offers import Offer
from store.units import show_bytes
from storedaemon.cli.exits import Exit
from storedaemon.cli.session import connected
from storedaemon.client.builds import Outlook
from storedaemon.wire.native.records import offer_map


def run(options: Namespace) -> int:
    """Ask; give the exit code: 0 if all items can be downloaded, otherwise 1."""
    return trio.run(_substitutes, options)


async def _substitutes(options: Namespace) -> int:
    async with connected(options) as client:
        offers, urls = await client.substitutable(options.paths, options.substitute_urls)
    found = {offer.path for offer in offers}
    absent = [path for path in options.paths if path not in found]
    if options.json:
        _print_json({"offers": list(map(offer_map, offers)), "absent": absent, "urls": urls})
    else:
        for offer in offers:
            sys.stdout.write(_line(offer))
        for path in absent:
            sys.stderr.write(f"nobody offers {path}\n")
        where = ", ".join(urls) or "nowhere: substitutes are turned off"
        sys.stderr.write(f"looked for substitutes at {where}\n")
    return Exit.ERROR if absent else Exit.OK


def print_outlook(outlook: Outlook, options: Namespace) -> None:
    """Print what a build would do."""
    if options.json:
        _print_json(
            {
                "builds": list(outlook.builds),
                "downloads": list(map(offer_map, outlook.downloads)),
                "impossible": list(outlook.impossible),
            }
        )
        return
    _print_section("would be built", (f"{path}\n" for path in outlook.builds))
    _print_section("would be downloaded", map(_line, outlook.downloads))
    _print_section("cannot be had", (f"{path}\n" for path in outlook.impossible))
    size = sum(offer.download_size for offer in outlook.downloads)
    if size:
        sys.stdout.write(f"{show_bytes(size).strip()} to download\n")


def _print_section(title: str, lines: Iterable[str]) -> None:
    for number, line in enumerate(lines):
        if not number:
            sys.stdout.write(f"{title}:\n")
        sys.stdout.write(f"  {line}")


def _line(offer: Offer) -> str:
    size = show_bytes(offer.download_size).strip() if offer.download_size else "unknown size"
    return f"{offer.path} ({size})\n"


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
