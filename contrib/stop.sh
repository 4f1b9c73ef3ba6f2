#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Ends the daemon that contrib/run.sh started.
set -euo pipefail
cd "$(dirname "$0")/.."

pid=$(cat .run/pid 2>/dev/null) || exit 0
if grep -qs storedaemon "/proc/$pid/cmdline"; then
    kill "$pid"
    for _ in $(seq 400); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
fi
rm -f .run/pid
