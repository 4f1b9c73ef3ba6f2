# SPDX-License-Identifier: GPL-3.0-or-later
"""Store workers: processes that do what has the size of a file, one request at a time.

`messages` is what both ends say, `main` the worker, `client` the daemon's pool.
"""
