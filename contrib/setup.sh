#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes the virtual environment and installs what is missing; does nothing, and
# takes no time, when all is there. With the argument "dev" it also installs
# what checks and tests need.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
extra=${1:-}
stamp=$venv/.installed${extra:+-$extra}

# What an installation is made from, beside Python files, which are used where they lie.
state() { cat pyproject.toml builder/spawner/*.c; }

if [ -x "$venv/bin/python" ] && state | cmp -s - "$stamp"; then
    exit 0
fi

say() { echo "storedaemon: $*" >&2; }

suitable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
        if suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "Python 3.11, 3.12 or 3.13 is needed, and was not found."
    say "Install one, or name it: make PYTHON=/path/to/python3.12 …"
    exit 1
}

# Names the Debian packages that are missing. python-prctl and the
# spawner's extension are compiled, which needs a compiler, Python's headers and those of libcap.
missing_packages() {
    command -v cc >/dev/null || echo gcc libc6-dev
    echo '#include <sys/capability.h>' | cc -E - >/dev/null 2>&1 || echo libcap-dev
    "$1" - <<'EOF'
import importlib.util, os, sys, sysconfig
name = "python%d.%d" % sys.version_info[:2]
of_system = os.path.realpath(sys.executable).startswith("/usr/bin/")
name = "python3" if of_system and os.path.realpath("/usr/bin/python3") == os.path.realpath(sys.executable) else name
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    print(name + "-dev")
if importlib.util.find_spec("ensurepip") is None:
    print(name + "-venv")
EOF
}

install_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $*"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
        return
    fi
    say "something is missing. On Debian and its relatives, run"
    say "    sudo apt-get install $*"
    say "and then this again; elsewhere, install what corresponds to it."
    exit 1
}

python=$(find_python)
read -r -d '' -a packages < <(missing_packages "$python") || true
if [ "${#packages[@]}" -gt 0 ]; then
    install_packages "${packages[@]}"
fi

if ! { [ -x "$venv/bin/python" ] && suitable "$venv/bin/python"; }; then
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

say "installing the Python packages it needs"
# The "compat" mode puts this directory on the path; the default costs every start 20 ms.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 \
    --config-settings editable_mode=compat --editable ".${extra:+[$extra]}"
state >"$stamp"
