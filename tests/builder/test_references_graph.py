# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that builders get when they ask for a closure."""

from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildError
from builder.references_graph import graph_requests, graph_text
from store.hashes import Digest, HashAlgorithm
from store.info import PathInfo
from store.paths import StoreDirectory

if TYPE_CHECKING:
    from tests.builder.conftest import MakePath

DIGEST = Digest(HashAlgorithm.SHA256, bytes(32))


def test_the_text_lists_items_with_their_references(path: "MakePath"):
    """Each entry: the item, an empty deriver, the count of references, the references."""
    lib = PathInfo(path("lib"), DIGEST, 1, frozenset({path("lib")}))
    app = PathInfo(path("app"), DIGEST, 1, frozenset({path("lib")}), deriver=path("app.drv"))
    entries = {
        path("app"): f"{path('app')}\n\n1\n{path('lib')}\n",
        path("lib"): f"{path('lib')}\n\n1\n{path('lib')}\n",
    }
    assert graph_text([lib, app]) == "".join(entries[each] for each in sorted(entries))


def test_requests_are_pairs_of_file_and_item(store: StoreDirectory, path: "MakePath"):
    """A path inside an item stands for the item."""
    assert graph_requests(f"graph {path('app')}/bin other {path('lib')}", store) == [
        ("graph", path("app")),
        ("other", path("lib")),
    ]


@pytest.mark.parametrize(
    ("attribute", "fault"),
    [
        ("graph", "odd number of tokens"),
        ("graph /etc/passwd", "non-store path `/etc/passwd'"),
        ("../../etc/passwd {item}", "invalid"),
        (".hidden {item}", "invalid"),
    ],
)
def test_malformed_requests_are_refused(
    store: StoreDirectory, path: "MakePath", attribute: str, fault: str
):
    """A file name from a derivation never leaves the build directory."""
    with pytest.raises(BuildError, match=fault):
        graph_requests(attribute.format(item=path("app")), store)
