#!/usr/bin/env bash
# Sets up, checks the style, and runs the tests; arguments go to pytest. --lock=tpu runs them with the
# lock for Cloud TPU, on CPU devices.
set -euo pipefail
cd "$(dirname "$0")/.."
arguments=()
for argument in "$@"; do
  case $argument in
    --lock=*) export SWITCH_TF_LOCK=${argument#--lock=} ;;
    *) arguments+=("$argument") ;;
  esac
done
source scripts/setup.sh
"$setup_venv/bin/ruff" check .
"$setup_venv/bin/ruff" format --check .
# Two processes of up to nine gigabytes each. All tests of a file run in the same process, so that
# their fixtures are made once.
exec "$setup_venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "${arguments[@]}"
