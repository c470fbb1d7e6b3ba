#!/usr/bin/env bash
# Shows the log of the chief, and what comes: scripts/tpu/follow.sh NAME
set -euo pipefail
source "$(dirname "$0")/python.sh" follow "$@"
