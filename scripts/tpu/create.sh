#!/usr/bin/env bash
# Asks for a slice: scripts/tpu/create.sh NAME --type=v4-32 --tier=spot
set -euo pipefail
source "$(dirname "$0")/python.sh" create "$@"
