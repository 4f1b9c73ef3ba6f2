# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of substitutes begin with: clients that want them, items, derivations."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from store.derivation_checks import DerivationChecker
from store.derivations import Derivation, Output, unparse_derivation
from store.paths import StoreDirectory, StorePath
from storedaemon.wire import messages as m
from tests.storedaemon.conftest import RunningDaemon
from tests.storedaemon.guix_client import GuixClient

ZEROS = "0" * 52


def use(
    client: GuixClient, *, fallback: bool = False, keep_going: bool = False, **settings: str
) -> None:
    """Have a client want substitutes."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in settings.items())
    client.call(
        m.SetOptions(
            keep_failed=False,
            keep_going=keep_going,
            fallback=fallback,
            verbosity=1,
            print_build_trace=True,
            use_substitutes=True,
            settings=pairs,
        )
    )


def item(daemon: RunningDaemon, number: int, name: str = "item") -> str:
    """Name an item that nothing makes."""
    return f"{daemon.store}/{number:032d}-{name}"


def is_running(pid: int) -> bool:
    """Tell whether a process is there."""
    return os.path.exists(f"/proc/{pid}")


@dataclass(frozen=True)
class Recipes:
    """Adds derivations whose builder is a shell script."""

    client: GuixClient
    daemon: RunningDaemon
    builder: str

    def add(
        self,
        name: str,
        script: str = "exit 1",
        inputs: Sequence[str] = (),
        sources: Sequence[str] = (),
        **env: str,
    ) -> tuple[str, str]:
        """Add a derivation; return it, and its output."""
        complete = self.complete(name, script, inputs, sources, **env)
        references = [*complete.input_derivations, *complete.input_sources]
        drv = self.client.add_text(f"{name}.drv", unparse_derivation(complete), references)
        return drv, complete.outputs["out"].path

    def complete(
        self,
        name: str,
        script: str = "exit 1",
        inputs: Sequence[str] = (),
        sources: Sequence[str] = (),
        **env: str,
    ) -> Derivation:
        """Describe a derivation, without adding it."""
        derivation = Derivation(
            {"out": Output("", "", "")},
            {StorePath(drv): ("out",) for drv in sorted(inputs)},
            tuple(map(StorePath, sorted([*sources, self.builder]))),
            "x86_64-linux",
            self.builder,
            (script,),
            {"out": "", **env},
        )
        return DerivationChecker(StoreDirectory(self.daemon.store)).complete(derivation, name)
