# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking what is known of content sources."""

from store.content_sources.scanner import SourceStatus
from storedaemon.services import Services
from storedaemon.session import Session


async def content_sources(services: Services, _session: Session) -> list[SourceStatus]:
    """Return a look at each content source, in the order in which they were named."""
    return services.content_sources.status()
