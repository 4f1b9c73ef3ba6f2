# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients are told when a helper process cannot do its part.

The helpers' transport imports nothing of the store, so its errors are of another
family; where they would reach a client, they become StoreErrors. Entry point:
`as_store_error`.
"""

from locker.errors import HelperError, LockError
from store.errors import StoreError

LOCK = "lock"
HELPER = "helper"


def as_store_error(error: HelperError) -> StoreError:
    """Return the error to tell a client; its reason is `lock` or `helper`."""
    if isinstance(error, LockError):
        return StoreError(error.message, reason=LOCK)
    return StoreError(f"a helper process of the daemon failed: {error.message}", reason=HELPER)
