#!/bin/sh -
# Makes the Python environment env/ beside this file; needs no network if wheels/ holds what this machine needs.
# -I: Python runs no file of the current folder or of PYTHONPATH.
set -eu
unset CDPATH  # cd is to look nowhere else
cd -- "$(dirname -- "$(readlink -f -- "$0")")"  # the folder itself, also where a link leads here
fail() { echo "install.sh: $1" >&2; exit 1; }

command -v python3 >/dev/null || fail "python3 is missing: sudo apt install python3 python3-venv"
rm -rf env.old
if [ -d env ]; then mv env env.old; fi
trap 'rm -rf env; if [ -d env.old ]; then mv env.old env; fi' EXIT  # if it fails, the previous one stays
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
log=$(python3 -I -m venv env 2>&1) || {
    printf '%s\n' "$log" >&2
    fail "python3 could not make a virtual environment. If nothing above says why: sudo apt install python3-venv"
}
pip() { env/bin/python -I -m pip --disable-pip-version-check --quiet "$@"; }
if log=$(pip install --no-index --find-links wheels '@REQUIREMENT@' 2>&1); then
    echo "Installed from wheels/."
else
    machine=$(python3 -I -c 'import platform; print("Python", platform.python_version(), "on", platform.machine())')
    echo "wheels/ @CONTENTS@; this is $machine. Using the network ..."
    pip install --find-links wheels '@REQUIREMENT@' || {
        printf '%s\n' "$log" >&2
        fail "no engine could be installed: connect to the network, or export again with --wheels for this machine"
    }
fi
log=$(env/bin/python -I -m vitsd_runtime.cli.@CHECK@ '@MODEL@' 2>&1) || {
    printf '%s\n' "$log" >&2
    fail "this machine can't run @MODEL@ as it should: nothing was changed"
}
trap 'rm -rf env.old' EXIT
echo "Ready: ./run.sh IMAGE"
