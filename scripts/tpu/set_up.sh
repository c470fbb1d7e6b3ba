#!/usr/bin/env bash
# Installs the project, at the commit at hand, on all workers: scripts/tpu/set_up.sh NAME
set -euo pipefail
source "$(dirname "$0")/python.sh" set_up "$@"
