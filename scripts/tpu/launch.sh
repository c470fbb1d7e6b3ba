#!/usr/bin/env bash
# Starts a command of switch-tf on all workers: scripts/tpu/launch.sh NAME -- train --gin_file=...
set -euo pipefail
source "$(dirname "$0")/python.sh" launch "$@"
