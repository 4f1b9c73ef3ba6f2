# SPDX-License-Identifier: GPL-3.0-or-later
"""The native methods about substitutes, and about what a build would do."""

from collections.abc import Mapping
from typing import Any

from builder.options import BuildMode
from builder.substitution.offers import Offer
from storedaemon.operations import substitutes
from storedaemon.sessions.native_call import Call, Result
from storedaemon.sessions.native_lists import listed
from storedaemon.sessions.native_options import session_for
from storedaemon.wire.native import records

# An item with more is cut in no other way: its record has to fit into a message.
_MOST_REFERENCES = 4096


async def substitutable(call: Call) -> Result:
    """Ask what is offered of some items."""
    session, paths = session_for(call), call.params.texts("paths")
    offers = await substitutes.query_offers(call.services, session, paths, call.send_events)
    urls = await substitutes.query_substitute_urls(call.services, session)
    found = [_record(offer) for _, offer in sorted(offers.items())]
    return {**await listed(call, "offers", found, _length), "urls": urls}


async def plan(call: Call) -> Result:
    """Tell what a build would build and download."""
    session, targets = session_for(call), call.params.texts("targets")
    outlook = await substitutes.look_ahead(
        call.services, session, targets, BuildMode.NORMAL, call.send_events
    )
    offers = [_record(offer) for offer in outlook.downloads]
    impossible = [*outlook.problems, *outlook.unavailable]
    return {
        **await listed(call, "builds", outlook.builds, len),
        **await listed(call, "offers", offers, _length),
        **await listed(call, "impossible", impossible, len),
    }


def _record(offer: Offer) -> dict[str, Any]:
    record = records.offer_map(offer)
    record["references"] = record["references"][:_MOST_REFERENCES]
    return record


def _length(record: Mapping[str, Any]) -> int:
    return 200 + len(record["path"]) + sum(map(len, record["references"]))
