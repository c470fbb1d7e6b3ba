#!/usr/bin/env bash
# Sets up, checks the style, and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# A process a core, of a gigabyte or two each; a file of tests stays in one, which makes its
# fixtures once.
processes=$(($(nproc) < 4 ? $(nproc) : 4))
exec .venv/bin/python -m pytest -n "$processes" --dist loadfile "$@"
