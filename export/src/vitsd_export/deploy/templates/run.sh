#!/bin/sh -
# Classifies images: ./run.sh IMAGE|FOLDER ... [--top-k 3] [--json]
# -I: Python runs no file of the current folder or of PYTHONPATH.
here=$(dirname -- "$(readlink -f -- "$0")")  # the folder itself, also where a link leads here
[ -x "$here/env/bin/python" ] || { echo "run.sh: run ./install.sh first" >&2; exit 2; }
[ $# -gt 0 ] || { echo "run.sh: say what to classify: run.sh IMAGE|FOLDER ... [--top-k 3] [--json]" >&2; exit 2; }
exec "$here/env/bin/python" -I -m vitsd_runtime.cli.predict "$here/@MODEL@" "$@"
