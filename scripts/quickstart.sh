#!/usr/bin/env bash
# Sets up, then pre-trains, fine-tunes and compares a dense T5 and a Switch Transformer; arguments
# go to `switch-tf reproduce quickstart`, such as --long. Rerun it to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec .venv/bin/switch-tf reproduce quickstart "$@"
