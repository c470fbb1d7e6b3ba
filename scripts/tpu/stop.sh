#!/usr/bin/env bash
# Has the run save its step and end: scripts/tpu/stop.sh NAME
set -euo pipefail
source "$(dirname "$0")/python.sh" stop "$@"
