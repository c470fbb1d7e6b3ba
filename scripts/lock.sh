#!/usr/bin/env bash
# Makes requirements.txt from requirements.in, and requirements-tpu.txt, for Cloud TPU, from
# requirements-tpu.in. Pins that still fit are kept; `scripts/lock.sh --upgrade` takes the newest
# versions, `--upgrade-package NAME` that of one package.
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
# tensorflow-text and others require it, and it would unpack over tensorflow-tpu.
cat > "$work/overrides-tpu.txt" <<'OVERRIDES'
tensorflow ; sys_platform == 'never'
OVERRIDES

python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv

# lock SOURCE LOCK ARGUMENT...
lock() {
  "$work/venv/bin/uv" pip compile "$1" --output-file "$2" \
    --python-version 3.11 --generate-hashes --override "$work/overrides.txt" --no-annotate \
    --custom-compile-command "scripts/lock.sh" --quiet "${@:3}"
  echo "$2: $(grep -c '==' "$2") packages"
}

lock requirements.in requirements.txt "$@"
# What both have is of the same version, so that what is tested with the one holds for the other.
lock requirements-tpu.in requirements-tpu.txt --override "$work/overrides-tpu.txt" \
  --constraint requirements.txt "$@"
