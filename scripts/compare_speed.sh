#!/usr/bin/env bash
# Sets up, then times a training step of two commits in turn, and prints their ratio; further
# arguments are flags of `switch-tf bench train`:
# scripts/compare_speed.sh HEAD~1 HEAD --gin_file=models/switch_tiny.gin --gin_file=runs/plan.gin
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec "$setup_venv"/bin/python -m switch_tf.benches.compare "$@"
