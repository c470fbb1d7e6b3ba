#!/usr/bin/env bash
# Makes requirements.txt from requirements.in. Pins that still fit are kept; `scripts/lock.sh
# --upgrade` takes the newest versions, `--upgrade-package NAME` that of one package.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# t5 requires two nightly builds that unpack into the same folders as seqio and tensorflow-datasets,
# and whose newest releases are years older than both.
cat > "$work/overrides.txt" <<'OVERRIDES'
seqio-nightly ; sys_platform == 'never'
tfds-nightly ; sys_platform == 'never'
OVERRIDES

python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv
"$work/venv/bin/uv" pip compile requirements.in --output-file requirements.txt \
  --python-version 3.11 --generate-hashes --override "$work/overrides.txt" --no-annotate \
  --custom-compile-command "scripts/lock.sh" --quiet "$@"
echo "requirements.txt: $(grep -c '==' requirements.txt) packages"
