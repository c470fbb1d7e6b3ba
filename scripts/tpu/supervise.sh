#!/usr/bin/env bash
# Creates, sets up, launches and watches, also over the loss of the slice, until the run ends:
# scripts/tpu/supervise.sh NAME --type=v4-32 --tier=spot -- train --gin_file=...
set -euo pipefail
source "$(dirname "$0")/python.sh" supervise "$@"
