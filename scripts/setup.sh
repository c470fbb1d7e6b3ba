# Sourced by the other scripts from the project's folder: makes .venv and installs what the lock
# pins, unless this was already done for the same lock. With SWITCH_TF_LOCK=tpu in the environment,
# it is .venv-tpu and the lock for Cloud TPU, which also runs on CPU devices. Afterwards `setup_venv`
# is the folder.

case ${SWITCH_TF_LOCK:-} in
  "") setup_venv=.venv setup_lock=requirements.txt ;;
  tpu) setup_venv=.venv-tpu setup_lock=requirements-tpu.txt ;;
  *)
    echo "error: SWITCH_TF_LOCK=$SWITCH_TF_LOCK: give 'tpu', or leave it out" >&2
    exit 2
    ;;
esac

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

setup_progress() {
  local found
  if grep -qs '^Installing collected' "$1"; then
    setup_say "installing: $setup_venv has $(du -sh "$setup_venv" 2>/dev/null | cut -f1) so far"
  elif [[ -s $1 ]]; then
    found=$(grep -Ec '^(Collecting|Processing|Requirement already)' "$1")
    setup_say "downloading: $found of $(grep -c '==' "$setup_lock") packages"
  else
    setup_say "still working"
  fi
}

# setup_run LOG COMMAND...: runs a command whose output goes to LOG, and tells its progress.
setup_run() {
  local log=$1 said=$SECONDS
  # In the background, as the shell heeds a signal only once a command in the foreground has ended;
  # in a process group of its own, so that what the command starts is ended with it.
  set -m
  "${@:2}" > "$log" &
  setup_child=$!
  set +m
  while kill -0 "$setup_child" 2>/dev/null; do
    sleep 0.5
    if (( SECONDS - said >= 8 )); then
      said=$SECONDS
      setup_progress "$log"
    fi
  done
  wait "$setup_child"
}

setup_child=""

setup_stop() {
  if [[ -n $setup_child ]]; then
    kill -- "-$setup_child" 2>/dev/null || true
    wait "$setup_child" 2>/dev/null || true
  fi
  setup_say "interrupted; rerun the command to start the set-up again" >&2
  exit "$1"
}

setup() {
  local python lock_hash venv=$setup_venv
  local stamp=$venv/lock.sha256 mark=$venv/unfinished
  setup_platform || return 1
  python=$(setup_python) || return 1
  lock_hash=$(cat "$setup_lock" pyproject.toml |
    "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  if [[ -x $venv/bin/switch-tf && ! -e $mark && -f $stamp && $(< "$stamp") == "$lock_hash" ]]; then
    setup_say "$venv is up to date"
    return
  fi
  # The mark says that an earlier attempt was interrupted. It begins anew, because pip takes a
  # half-installed package for a whole one.
  if [[ ! -x $venv/bin/pip || -e $mark ]]; then
    setup_say "making $venv"
    rm -rf "$venv" && mkdir "$venv" && touch "$mark" || return 1
    setup_run /dev/null "$python" -m venv "$venv" || return 1
  fi
  setup_say "installing $(grep -c '==' "$setup_lock") packages from the lock (some minutes)"
  touch "$mark"
  setup_run "$venv/pip.log" "$venv/bin/pip" install --progress-bar off --disable-pip-version-check \
    --no-compile --no-deps --require-hashes -r "$setup_lock" || return 1
  setup_say "compiling them"
  # On all cores, which pip would not use. Some packages hold templates that are no valid Python.
  setup_run "$venv/compile.log" "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" || true
  setup_say "installing switch-tf"
  setup_run "$venv/pip.log" "$venv/bin/pip" install --disable-pip-version-check --no-deps \
    --no-build-isolation -e . || return 1
  echo "$lock_hash" > "$stamp"
  rm "$mark"
  setup_say "done"
}

trap 'setup_stop 129' HUP
trap 'setup_stop 130' INT
trap 'setup_stop 143' TERM
setup || exit 1
trap - HUP INT TERM
