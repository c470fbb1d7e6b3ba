#!/usr/bin/env bash
# Sets up, then makes the pages and pictures of docs/ that are made by measuring or counting;
# arguments go to `python -m switch_tf.pages`, such as the name of one, or --check.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec .venv/bin/python -m switch_tf.pages "$@"
