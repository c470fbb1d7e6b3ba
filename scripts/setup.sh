# Sourced by the other scripts from the project's folder: makes .venv and installs what the lock
# pins, unless this was already done for the same lock.

setup_python() {
  local candidate
  for candidate in python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 is needed, as python3.11 or python3 on the PATH" >&2
  return 1
}

setup_say() {
  echo "[setup ${SECONDS}s] $*"
}

# TensorFlow Text of the version in the lock has no wheel for anything else.
setup_platform() {
  if [[ $(uname -s) != Linux || $(uname -m) != x86_64 ]]; then
    echo "error: Linux on x86-64 is needed, but this is $(uname -s) on $(uname -m): use such a" \
      "machine or container" >&2
    return 1
  fi
}

setup() {
  local python lock_hash stamp=.venv/lock.sha256
  setup_platform || return 1
  python=$(setup_python) || return 1
  lock_hash=$(cat requirements.txt pyproject.toml |
    "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  if [[ -x .venv/bin/switch-tf && -f $stamp && $(< "$stamp") == "$lock_hash" ]]; then
    setup_say ".venv is up to date"
    return
  fi
  # pip is installed last: if it is missing, an earlier attempt was interrupted.
  if [[ ! -x .venv/bin/pip ]]; then
    setup_say "making .venv"
    "$python" -m venv --clear .venv || return 1
  fi
  setup_say "installing $(grep -c '==' requirements.txt) packages from the lock (a minute or two)"
  .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    -r requirements.txt || return 1
  setup_say "installing switch-tf"
  .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    -e . || return 1
  echo "$lock_hash" > "$stamp"
  setup_say "done"
}

setup || exit 1
