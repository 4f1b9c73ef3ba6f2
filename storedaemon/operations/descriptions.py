# SPDX-License-Identifier: GPL-3.0-or-later
"""Making derivations from descriptions: the daemon computes where their outputs go."""

from collections.abc import Iterable, Mapping

from store.derivations import Derivation, Output
from store.errors import DerivationError
from store.hashes import Digest, HashAlgorithm
from store.paths import StoreDirectory, StorePath
from storedaemon.descriptions import DEFAULT_OUTPUT, DerivationDescription
from storedaemon.services import Services
from storedaemon.session import Session


async def add_derivation(
    services: Services, session: Session, description: DerivationDescription
) -> tuple[StorePath, Mapping[str, StorePath]]:
    """Write a derivation into the store.

    Returns:
        Its path, and its outputs by name.

    Raises:
        InvalidPathError: A name or a path is none.
        NotValidError: An input or a source is not registered.
        InvalidHashError: The fixed output's hash is none.
        DerivationError: The description contradicts itself.
    """
    system = description.system or services.settings.system
    derivation = _derivation(description, services.directory, system)
    return await services.writer.add_derivation(session.roots, description.name, derivation)


def _derivation(
    description: DerivationDescription, directory: StoreDirectory, system: str
) -> Derivation:
    inputs = {
        directory.parse(path): _names("outputs of an input", outputs)
        for path, outputs in sorted(description.inputs.items())
    }
    return Derivation(
        outputs=_outputs(description),
        input_derivations=inputs,
        input_sources=tuple(sorted({directory.parse(path) for path in description.sources})),
        system=system,
        builder=description.builder,
        args=description.args,
        env=dict(sorted(description.env.items())),
    )


def _outputs(description: DerivationDescription) -> dict[str, Output]:
    names = _names("outputs", description.outputs)
    if not description.fixed:
        return {name: Output("") for name in names}
    if names != (DEFAULT_OUTPUT,):
        raise DerivationError("a derivation with a fixed output has no other than 'out'")
    fixed = description.fixed
    digest = Digest.parse(HashAlgorithm.parse(fixed.algorithm), fixed.hash)
    word = f"r:{digest.algorithm}" if fixed.recursive else str(digest.algorithm)
    return {DEFAULT_OUTPUT: Output("", word, digest.base16)}


def _names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    given = tuple(names)
    if not given or len(set(given)) < len(given):
        raise DerivationError(f"{what}: name each once, and one at least")
    return tuple(sorted(given))
