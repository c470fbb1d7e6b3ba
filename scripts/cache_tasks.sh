#!/usr/bin/env bash
# Sets up, then preprocesses tasks once with SeqIO's Beam pipeline; arguments go to `switch-tf
# cache`:
# scripts/cache_tasks.sh --tasks=pydocs_span_corruption --output_cache_dir=cache
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec "$setup_venv"/bin/switch-tf cache "$@"
