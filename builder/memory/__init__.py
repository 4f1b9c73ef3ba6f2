# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory builds have, and keeping them from having more.

places.py     where this process's cgroup is, by what the kernel says of it; pure
group.py      one cgroup, of either version
home.py       where the cgroups of builds may be made
meters.py     measures builds that last
score.py      whom the kernel ends first when memory runs out
"""
