# SPDX-License-Identifier: GPL-3.0-or-later
"""The downloader: what `builtin:download` and `builtin:git-download` run where guix is not.

It is a program of its own that runs like any builder of a fixed output: as a build user,
in a container that has only an interpreter, certificates and perhaps git, with the network
that fixed outputs get. It reads what the internet sends, so nothing it says is believed:
what it leaves is hashed by the daemon. It is made of the standard library alone.

    request.py     what it is to do, made by the daemon
    scheme.py      reads the data that derivations bring
    urls.py        where to look, in which order, and which redirections to follow
    progress.py    the lines that clients draw bars from
    dial.py        connections, and how near to this machine they lead
    fetch.py       one URL into a file
    git.py         a commit into a directory
    main.py        the program
"""
