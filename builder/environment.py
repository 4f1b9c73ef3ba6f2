# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment variables a builder sees. Pure.

Recipes depend on every one of these names and on their order of precedence, so
they are those of the C++ daemon: the daemon's defaults, over them the
derivation's own, over them the directories; and for a fixed output what it asks
of the daemon's own environment.
"""

from collections.abc import Mapping

from store.derivations import Derivation

HOME = "/homeless-shelter"
"""A home that does not exist, so that no program finds settings in it."""

NO_PATH = "/path-not-set"
"""A PATH that finds nothing: shells fill in a default of their own for an empty one."""

_ENCODING, _ERRORS = "utf-8", "surrogateescape"

TEMPORARY_NAMES = ("TMPDIR", "TEMPDIR", "TMP", "TEMP")


def builder_environment(
    derivation: Derivation,
    *,
    store: str,
    cores: int,
    build_directory: str,
    daemon_environment: Mapping[str, str],
    makeflags: str | None = None,
) -> dict[str, str]:
    """Return the whole environment of a builder.

    Args:
        derivation: What is built.
        store: The store directory.
        cores: What the client, or else the daemon, allows; 0 for all.
        build_directory: The build directory as the builder sees it.
        daemon_environment: Where the values for `impureEnvVars` come from; only
            fixed outputs get them, since their content is known beforehand.
        makeflags: What tells of the jobserver; None where there is none.
    """
    directories = dict.fromkeys(("NIX_BUILD_TOP", "PWD", *TEMPORARY_NAMES), build_directory)
    jobserver = {} if makeflags is None else {"MAKEFLAGS": makeflags}
    return {
        **jobserver,
        "PATH": NO_PATH,
        "HOME": HOME,
        "NIX_STORE": store,
        "NIX_BUILD_CORES": str(cores),
        **derivation.env,
        **directories,
        **_impure_variables(derivation, daemon_environment),
    }


def _impure_variables(derivation: Derivation, source: Mapping[str, str]) -> dict[str, str]:
    if not derivation.is_fixed_output:
        return {}
    names = derivation.env.get("impureEnvVars", "").split()
    return {name: source.get(name, "") for name in names}


def octets(text: str) -> bytes:
    """Give the bytes of a text of a derivation, which need not be UTF-8."""
    return text.encode(_ENCODING, _ERRORS)


def variables(environment: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Give an environment as a `builder.container.Command` has it."""
    pairs = environment.items()
    return tuple([(i.encode(_ENCODING, _ERRORS), j.encode(_ENCODING, _ERRORS)) for i, j in pairs])


def build_directory_name(derivation_name: str) -> str:
    """Return the name, under /tmp, of the build directory that every container shows."""
    return f"guix-build-{derivation_name}-0"
