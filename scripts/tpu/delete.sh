#!/usr/bin/env bash
# Deletes a slice, or its request: scripts/tpu/delete.sh NAME
set -euo pipefail
source "$(dirname "$0")/python.sh" delete "$@"
