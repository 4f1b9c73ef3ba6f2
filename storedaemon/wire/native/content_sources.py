# SPDX-License-Identifier: GPL-3.0-or-later
"""Content sources, as the maps of results, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from store.content_sources.scanner import SourceStatus, State
from storedaemon.wire.native.events import MAX_TEXT


def source_map(status: SourceStatus) -> dict[str, Any]:
    """Give a content source as `content-sources` lists it."""
    values = {each.name.replace("_", "-"): getattr(status, each.name) for each in fields(status)}
    texts = {key: _plain(values[key]) for key in ("path", "problem")}
    return {**values, **texts, "state": status.state.value}


def _plain(text: str) -> str:
    # A lone surrogate stands for a byte that is not UTF-8, which CBOR text has to be.
    return text[:MAX_TEXT].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def parse_source(values: Mapping[str, Any]) -> SourceStatus:
    """Read what `source_map` made; raises KeyError or ValueError where it is something else."""
    known = {each.name: values[each.name.replace("_", "-")] for each in fields(SourceStatus)}
    return SourceStatus(**{**known, "state": State(known["state"])})
