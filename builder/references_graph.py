# SPDX-License-Identifier: GPL-3.0-or-later
"""The text files that `exportReferencesGraph` puts into a build directory. Pure.

The attribute is a list of pairs: a file name, then a store path whose closure
the file describes.
"""

from collections.abc import Iterable

from builder.errors import BuildError
from builder.events import FailureKind
from store.errors import StoreError
from store.info import PathInfo
from store.paths import StoreDirectory, StorePath, check_name


def graph_requests(attribute: str, directory: StoreDirectory) -> list[tuple[str, StorePath]]:
    """Return the pairs of file name and store item that the attribute asks for.

    Raises:
        BuildError: The attribute is malformed or names something outside the store.
    """
    words = attribute.split()
    if len(words) % 2:
        raise BuildError(
            f"odd number of tokens in `exportReferencesGraph': `{attribute}'",
            FailureKind.INPUT_REJECTED,
        )
    pairs = zip(words[::2], words[1::2], strict=True)
    return [(_file_name(name), _item(path, directory)) for name, path in pairs]


def _file_name(name: str) -> str:
    try:
        check_name(name)
    except StoreError as error:
        raise BuildError(error.message, FailureKind.INPUT_REJECTED) from error
    return name


def _item(path: str, directory: StoreDirectory) -> StorePath:
    try:
        return directory.item_of(path)
    except StoreError as error:
        raise BuildError(
            f"`exportReferencesGraph' contains a non-store path `{path}'",
            FailureKind.INPUT_REJECTED,
        ) from error


def graph_text(infos: Iterable[PathInfo]) -> str:
    """Return the description of a closure: for each item its path, no deriver, its references."""
    return "".join(_entry(info) for info in sorted(infos, key=lambda info: info.path))


def _entry(info: PathInfo) -> str:
    references = sorted(info.references)
    lines = [info.path, "", str(len(references)), *references]
    return "".join(f"{line}\n" for line in lines)
