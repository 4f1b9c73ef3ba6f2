# SPDX-License-Identifier: GPL-3.0-or-later
"""What a substituter says of an item, where it is unusual."""

import pytest

from builder.substitution.protocol import OfferReader, SubstituteProtocolError
from store.paths import StoreDirectory, StorePath

STORE = StoreDirectory("/gnu/store")
ITEM = StorePath(f"/gnu/store/{'a' * 32}-item")
DRV = f"/gnu/store/{'b' * 32}-item.drv"


def read(*lines: str) -> OfferReader:
    """Read the answer for one item."""
    reader = OfferReader(STORE, [ITEM])
    for line in lines:
        reader.feed(line)
    return reader


def test_sizes_may_need_all_of_64_bits():
    """Servers may claim any, and clients are told; what is registered is measured."""
    size = 2**63 + 100
    offer = read(ITEM, DRV, "0", "0", str(size), "").offers[ITEM]
    assert (offer.nar_size, offer.deriver) == (size, DRV)
    with pytest.raises(SubstituteProtocolError, match="integer expected"):
        read(ITEM, DRV, "0", "0", str(2**64))


@pytest.mark.parametrize("deriver", ["", f"/gnu/store/{DRV}", "/etc/passwd", "unknown"])
def test_a_deriver_that_is_no_item_is_unknown(deriver: str):
    """Nothing depends on it, so the item can be had all the same."""
    reader = read(ITEM, deriver, "0", "0", "1234", "")
    assert reader.done
    assert reader.offers[ITEM].deriver is None
