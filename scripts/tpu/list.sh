#!/usr/bin/env bash
# Lists slices and requests, which cost money or hold a quota: scripts/tpu/list.sh
set -euo pipefail
source "$(dirname "$0")/python.sh" list "$@"
