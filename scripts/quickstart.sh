#!/usr/bin/env bash
# Sets up, then pre-trains, fine-tunes and compares a dense T5 and a Switch Transformer; arguments
# go to `switch-tf reproduce run quickstart`, such as --long. The exit status is that command's: 0 once all
# is done; 130 after Ctrl-C and 143 after SIGTERM, then rerun it to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
exec "$setup_venv"/bin/switch-tf reproduce run quickstart "$@"
