#!/usr/bin/env bash
# Sets up, checks the style, and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# Two processes, of up to nine gigabytes each; a file of tests stays in one, which makes its fixtures
# once.
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
