# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables a builder sees are those that recipes rely on."""

import dataclasses
from typing import TYPE_CHECKING

from builder.environment import build_directory_name, builder_environment
from store.derivations import Derivation, Output

if TYPE_CHECKING:
    from tests.builder.conftest import MakeDerivation

SEEN_AS = "/tmp/guix-build-demo.drv-0"


def environment(derivation: Derivation, **daemon: str) -> dict[str, str]:
    """Return the environment of a builder in the usual store."""
    return builder_environment(
        derivation,
        store="/gnu/store",
        cores=3,
        build_directory=SEEN_AS,
        daemon_environment=daemon,
    )


def fixed(derivation: Derivation) -> Derivation:
    """Return the same derivation with a fixed output."""
    output = Output(derivation.outputs["out"].path, "sha256", "0" * 64)
    return dataclasses.replace(derivation, outputs={"out": output})


def test_the_defaults_are_those_of_the_other_daemon(derivation: "MakeDerivation"):
    """Nothing more and nothing less than these, for a derivation without variables."""
    assert environment(derivation("demo")) == {
        "PATH": "/path-not-set",
        "HOME": "/homeless-shelter",
        "NIX_STORE": "/gnu/store",
        "NIX_BUILD_CORES": "3",
        "NIX_BUILD_TOP": SEEN_AS,
        "TMPDIR": SEEN_AS,
        "TEMPDIR": SEEN_AS,
        "TMP": SEEN_AS,
        "TEMP": SEEN_AS,
        "PWD": SEEN_AS,
    }


def test_a_derivation_overrides_defaults_but_not_directories(derivation: "MakeDerivation"):
    """The order of precedence is part of what recipes rely on."""
    result = environment(derivation("demo", PATH="/bin", NIX_BUILD_CORES="1", TMPDIR="/elsewhere"))
    assert result["PATH"] == "/bin"
    assert result["NIX_BUILD_CORES"] == "1"
    assert result["TMPDIR"] == SEEN_AS


def test_only_fixed_outputs_get_the_daemons_variables(derivation: "MakeDerivation"):
    """An output whose content is known beforehand cannot depend on them."""
    plain = derivation("demo", impureEnvVars="http_proxy no_such_variable")
    assert "http_proxy" not in environment(plain, http_proxy="http://proxy")
    result = environment(fixed(plain), http_proxy="http://proxy", secret="x")
    assert result["http_proxy"] == "http://proxy"
    assert result["no_such_variable"] == ""
    assert "secret" not in result


def test_the_build_directory_is_called_as_in_every_log():
    """Build logs and debug information contain this name."""
    assert build_directory_name("demo.drv") == "guix-build-demo.drv-0"
