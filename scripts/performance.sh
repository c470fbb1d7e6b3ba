#!/usr/bin/env bash
# Sets up, then measures every target of speed and memory, in about half an hour, and writes
# docs/performance.json and the tables of docs/performance.md. Results come to runs/performance, so that
# the command can be rerun; remove that folder to measure anew. Needs the peer's environment: see
# requirements-bench.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec "$setup_venv"/bin/python -m switch_tf.benches.performance "$@"
