# SPDX-License-Identifier: GPL-3.0-or-later
"""Store workers: processes for work that is the size of a file, one a core.

They seal outputs, hash and delete; Python's lock would hold up the event loop if
threads of the daemon searched for references.
"""
