# SPDX-License-Identifier: GPL-3.0-or-later
"""Store items, derivations and jobs as the maps of results and parameters, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.options import Client
from builder.scheduling.waiting import Holder
from builder.substitution.offers import Offer
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.paths import StorePath
from storedaemon.descriptions import DerivationDescription, FixedOutput
from storedaemon.wire.native.events import holder_map, parse_holder
from storedaemon.wire.native.faults import RequestError
from storedaemon.wire.native.params import Params


def digest_text(digest: Digest) -> str:
    """Write a hash as ``ALGORITHM:BASE16``."""
    return f"{digest.algorithm}:{digest.base16}"


def parse_digest(text: str) -> Digest:
    """Read what `digest_text` writes; base 32 is taken as well.

    Raises:
        StoreError: It is no hash.
    """
    algorithm, _, digits = text.partition(":")
    return Digest.parse(HashAlgorithm.parse(algorithm), digits)


def path_info_map(info: PathInfo) -> dict[str, Any]:
    """Describe a registered item."""
    return {
        "path": info.path,
        "nar-hash": digest_text(info.nar_hash),
        "nar-size": info.nar_size,
        "references": sorted(info.references),
        "deriver": info.deriver,
        "registration-time": info.registration_time,
    }


def parse_path_info(values: Mapping[str, Any]) -> PathInfo:
    """Read what `path_info_map` writes."""
    reader = Params("path-info", values)
    return PathInfo(
        path=StorePath(reader.text("path")),
        nar_hash=parse_digest(reader.text("nar-hash")),
        nar_size=reader.number("nar-size"),
        references=frozenset(map(StorePath, reader.texts("references"))),
        deriver=StorePath(reader.text("deriver")) if reader.has("deriver") else None,
        registration_time=reader.number("registration-time"),
    )


def root_map(link: str, item: StorePath) -> dict[str, str]:
    """Describe a root; bytes of its name that are no UTF-8 are lost."""
    name = link.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return {"link": name, "path": item}


def description_map(description: DerivationDescription) -> dict[str, Any]:
    """Write a description as the parameters of `add-derivation`."""
    fixed = description.fixed
    values: dict[str, Any] = {
        "name": description.name,
        "builder": description.builder,
        "args": list(description.args),
        "env": dict(description.env),
        "inputs": {path: list(outputs) for path, outputs in description.inputs.items()},
        "sources": list(description.sources),
        "outputs": list(description.outputs),
        "system": description.system,
    }
    if fixed:
        values["fixed"] = {
            "algorithm": fixed.algorithm,
            "hash": fixed.hash,
            "recursive": fixed.recursive,
        }
    return values


def parse_description(params: Params) -> DerivationDescription:
    """Read the parameters of `add-derivation`.

    Raises:
        RequestError: Names the parameter that is not what it must be.
    """
    return DerivationDescription(
        name=params.text("name", limit=256),
        builder=params.text("builder"),
        args=tuple(_plain(params, "args", text) for text in params.texts("args", [])),
        env=_environment(params),
        inputs=_inputs(params),
        sources=tuple(params.texts("sources", [])),
        outputs=tuple(params.texts("outputs", ["out"])),
        system=params.text("system", "", limit=256),
        fixed=_fixed(params.nested("fixed")) if params.has("fixed") else None,
    )


def _plain(params: Params, key: str, text: str) -> str:
    if "\0" in text:
        raise params.wrong(key, "text without null characters")
    return text


def _environment(params: Params) -> Mapping[str, str]:
    env = params.mapping("env")
    for name, value in env.items():
        if not isinstance(value, str) or "\0" in value:
            raise params.wrong("env", f"a map of text, without null characters ('{name:.80}')")
        if not name or "=" in name or "\0" in name:
            raise params.wrong("env", f"a map whose keys can name variables ('{name:.80}')")
    return env


def _inputs(params: Params) -> Mapping[str, tuple[str, ...]]:
    reader = params.nested("inputs")
    return {path: tuple(reader.texts(path)) for path in params.mapping("inputs")}


def _fixed(reader: Params) -> FixedOutput:
    return FixedOutput(
        reader.text("algorithm", limit=32),
        reader.text("hash", limit=256),
        reader.flag("recursive"),
    )


def offer_map(offer: Offer) -> dict[str, Any]:
    """Describe what is offered of an item."""
    return {
        "path": offer.path,
        "deriver": offer.deriver,
        "references": sorted(offer.references),
        "download-size": offer.download_size,
        "nar-size": offer.nar_size,
    }


def parse_offer(values: Mapping[str, Any]) -> Offer:
    """Read what `offer_map` writes."""
    reader = Params("offer", values)
    return Offer(
        path=StorePath(reader.text("path")),
        deriver=StorePath(reader.text("deriver")) if reader.has("deriver") else None,
        references=frozenset(map(StorePath, reader.texts("references"))),
        download_size=reader.number("download-size"),
        nar_size=reader.number("nar-size"),
    )


_MAX_HOLDERS = 4
_MAX_CLIENTS = 32


@dataclass(frozen=True, slots=True)
class Goal:
    """One derivation that a daemon is busy with, as `ps` shows it; times in seconds."""

    drv: str
    mode: str
    state: str
    waits_for: str
    age: float
    pid: int | None
    log_file: str
    clients: tuple[Mapping[str, Any], ...]
    attempt: int = 1
    quiet: str = ""
    priority: int = 0
    last_line: str = ""
    holders: tuple[Holder, ...] = ()
    shell: int | None = None


def goal_map(view: Any) -> dict[str, Any]:
    """Describe a `builder.scheduling.jobs.JobView`."""
    return {
        "drv": view.path,
        "mode": view.mode,
        "state": view.state,
        "waits-for": view.waits_for,
        "age": round(view.age, 3),
        "pid": view.pid,
        "shell": view.shell,
        "log-file": view.log_file,
        "attempt": view.attempt,
        "quiet": view.quiet,
        "priority": view.priority,
        "last-line": view.last_line,
        "holders": [holder_map(holder) for holder in view.holders[:_MAX_HOLDERS]],
        "clients": client_maps(view.clients),
    }


def client_maps(clients: Sequence[Client]) -> list[dict[str, Any]]:
    """Describe those who want a goal, the first of them if there are many."""
    return [_client_map(client) for client in clients[:_MAX_CLIENTS]]


def _client_map(client: Client) -> dict[str, Any]:
    return {
        "session": client.session,
        "user": client.user,
        "uid": client.uid,
        "pid": client.pid,
        "detached": client.detached,
    }


def parse_goal(values: Mapping[str, Any]) -> Goal:
    """Read what `goal_map` writes."""
    reader = Params("ps", values)
    age = values.get("age")
    clients = values.get("clients")
    if not isinstance(age, int | float) or not isinstance(clients, list):
        raise RequestError("invalid-result", "ps: a goal without age or clients")
    return Goal(
        drv=reader.text("drv"),
        mode=reader.text("mode"),
        state=reader.text("state"),
        waits_for=reader.text("waits-for"),
        age=float(age),
        pid=reader.optional_number("pid"),
        log_file=reader.text("log-file"),
        clients=tuple(c for c in clients if isinstance(c, dict)),
        attempt=reader.number("attempt", 1),
        quiet=reader.text("quiet", ""),
        priority=_signed(values.get("priority")),
        last_line=reader.text("last-line", ""),
        holders=tuple(map(parse_holder, _maps(values.get("holders")))),
        shell=reader.optional_number("shell"),
    )


def _signed(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _maps(values: Any) -> list[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []
