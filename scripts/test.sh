#!/usr/bin/env bash
# Sets up, checks the style, and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# Two processes of up to nine gigabytes each. All tests of a file run in the same process, so that
# their fixtures are made once.
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
