# SPDX-License-Identifier: GPL-3.0-or-later
"""The store: its formats (paths, hashes, NAR, derivations) and its state (items, database, roots).

Nothing here knows of clients or builds.
"""
