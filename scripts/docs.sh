#!/usr/bin/env bash
# Sets up, then regenerates the pages and pictures of docs/ that are measured or counted; arguments
# go to `python -m switch_tf.pages`, such as the name of a page, or --check.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec "$setup_venv"/bin/python -m switch_tf.pages "$@"
