#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Starts a private daemon under .run/, unless it runs already, builds the
# example with it, and runs what was built.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
run=$PWD/.run
socket=$run/socket
recipe=contrib/examples/tally/recipe.toml

say() { echo "storedaemon: $*" >&2; }

running() {
    local pid
    [ -S "$socket" ] && pid=$(cat "$run/pid" 2>/dev/null) &&
        grep -qs storedaemon "/proc/$pid/cmdline"
}

# Builds see the compiler of this machine: its directories, read-only. The links
# in /etc/alternatives are what commands such as cc are on Debian.
write_configuration() {
    local directory
    echo "# Written by contrib/run.sh."
    printf 'store = "%s"\nstate = "%s"\n' "$run/store" "$run/state"
    printf 'listen = ["%s"]\nlisten-guix = ["%s"]\n' "$socket" "$run/guix-socket"
    printf 'max-jobs = %s\ncores = 1\n' "$(nproc)"
    echo 'chroot-directory = ['
    for directory in /usr /bin /lib /lib32 /lib64 /libx32 /etc/alternatives; do
        [ -d "$directory" ] && echo "    \"$directory\","
    done
    echo ']'
}

start() {
    say "starting a daemon in $run"
    setsid "$venv/bin/storedaemon" serve --config "$run/daemon.toml" \
        </dev/null >"$run/daemon.log" 2>&1 &
    local pid=$! attempt
    echo "$pid" >"$run/pid"
    for attempt in $(seq 200); do
        [ -S "$socket" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    give_up
}

give_up() {
    say "the daemon did not start; the end of $run/daemon.log is:"
    tail -n 20 "$run/daemon.log" >&2
    exit 1
}

mkdir -p "$run"
if [ ! -w "$run" ]; then
    say "$run belongs to another user; remove it, or run this as that user"
    exit 1
fi

write_configuration >"$run/daemon.toml.new"
if running; then
    changed=$(find store storedaemon builder locker reaper -name '*.py' -newer "$run/pid" -print -quit)
    if [ -n "$changed" ] || ! cmp -s "$run/daemon.toml.new" "$run/daemon.toml"; then
        say "$([ -n "$changed" ] && echo "$changed has" || echo "its configuration has") changed"
        contrib/stop.sh
    fi
fi
mv "$run/daemon.toml.new" "$run/daemon.toml"
running || start

say "building $recipe"
code=0
output=$("$venv/bin/storedaemon" --socket "$socket" build "$recipe" --link "$run/result") || code=$?
# The socket is there before the daemon is done starting, which may still fail.
[ "$code" != 3 ] || running || give_up
[ "$code" = 0 ] || exit "$code"

echo "$output"
say "running $output/bin/tally README.md"
"$output/bin/tally" README.md
