#!/usr/bin/env bash
# What scripts/tpu runs on each worker of a slice, in the home folder:
#   bash worker.sh set_up | start COMMAND... | state | log LINES | stop SECONDS | kill
#   bash worker.sh save SECONDS | end     as stop and kill, but not by hand: a supervisor goes on
# The project is in ~/switch_tf; the run's log, exit status and so on are in ~/switch_tf_run.
set -euo pipefail
code=$HOME/switch_tf
run=$HOME/switch_tf_run
boot_id=/proc/sys/kernel/random/boot_id
# For the processes of the run; TPU's own software has others.
port=19011

fail() {
  echo "error: $(hostname): $*" >&2
  exit 1
}

metadata() {
  curl -sf -m 20 -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

# Its number; on Compute Engine the attribute has another name than in the TPU API.
number() {
  metadata agent-worker-number || metadata worker-id || fail "the metadata do not say which worker this is"
}

is_running() {
  [[ -s $run/pid && ! -e $run/status && $(< "$run/boot") == "$(< $boot_id)" ]] &&
    kill -0 "$(< "$run/pid")" 2> /dev/null
}

# Ubuntu 22.04 has only a release candidate of Python 3.11. A new machine updates itself at first:
# apt-get install waits for that by itself, but not update for the lock of the lists.
install_python() {
  local end=$(( SECONDS + 600 ))
  sudo add-apt-repository -y -n ppa:deadsnakes/ppa
  until sudo apt-get -o DPkg::Lock::Timeout=600 -qq update; do
    (( SECONDS < end )) || fail "apt-get update has failed for ten minutes; the lines above say why"
    sleep 10
  done
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq install -y python3.11 python3.11-venv
}

set_up() {
  local id
  id=$(sha256sum source.tar.gz | cut -c1-12)
  if is_running; then fail "a run goes on here: stop it first"; fi
  if [[ -e $code/code && $(< "$code/code") == "$id" ]]; then
    echo "$(hostname): is set up"
    return
  fi
  # Without ensurepip, which Ubuntu has in another package, there is no venv.
  if ! python3.11 -c 'import ensurepip' 2> /dev/null; then install_python; fi
  rm -rf "$code.new" && mkdir "$code.new"
  tar -xzf source.tar.gz -C "$code.new"
  if [[ -d $code/.venv-tpu ]]; then mv "$code/.venv-tpu" "$code.new/"; fi
  rm -rf "$code" && mv "$code.new" "$code"
  (cd "$code" && export SWITCH_TF_LOCK=tpu && source scripts/setup.sh)
  echo "$id" > "$code/code"
}

# Tells the program who is who, by DTensor's variables. Without it, each worker would train alone.
find_workers() {
  local endpoints
  local -a workers
  endpoints=$(metadata worker-network-endpoints) || fail "the metadata do not list the workers"
  # The TPU API gives ID:PORT:ADDRESS of each, Compute Engine its name.
  IFS=, read -r -a workers <<< "$endpoints"
  if (( ${#workers[@]} > 1 )); then
    workers=("${workers[@]##*:}")
    workers=("${workers[@]/%/:$port}")
    DTENSOR_JOBS=$(IFS=, && echo "${workers[*]}")
    DTENSOR_CLIENT_ID=$(number)
    export DTENSOR_JOBS DTENSOR_CLIENT_ID
  fi
}

start() {
  if is_running; then fail "a run goes on here: follow or stop it"; fi
  [[ -e $code/code ]] || fail "the project is not set up here"
  find_workers
  mkdir -p "$run" && rm -f "$run"/{status,stopped,pid,seen}
  cd "$code"
  export PATH="$code/.venv-tpu/bin:$PATH"
  setsid nohup bash "$HOME/worker.sh" attend "$@" >> "$run/log.txt" 2>&1 < /dev/null &
  for _ in {1..100}; do
    if [[ -s $run/pid ]]; then return; fi
    sleep 0.1
  done
  fail "the run did not start: see $run/log.txt"
}

# Runs the command, and keeps its exit status. A signal to all, as when the machine is taken back,
# must not end this first.
attend() {
  local child status=0
  trap ':' HUP INT TERM
  cp $boot_id "$run/boot"
  echo "[$(date -u '+%F %T') UTC] $*"
  "$@" &
  child=$!
  echo $child > "$run/child"
  echo $$ > "$run/pid"
  while kill -0 $child 2> /dev/null; do wait $child || true; done
  wait $child || status=$?
  echo "[$(date -u '+%F %T') UTC] ended with status $status"
  echo $status > "$run/status.new" && mv "$run/status.new" "$run/status"
}

# Seconds since the run's log had a line that tells of progress, as far as the looks saw it: not one
# of a stage that only tells how long it has taken (switch_tf/stages.py), as if it hangs it goes on
# doing so.
silence() {
  local seen
  seen=$(sed -E 's/[0-9]+ s so far$//' "$run/log.txt" | uniq | cksum)
  if [[ ! -e $run/seen || $(< "$run/seen") != "$seen" ]]; then
    echo "$seen" > "$run/seen"
    touch -r "$run/log.txt" "$run/seen"
  fi
  echo $(( $(date +%s) - $(stat -c %Y "$run/seen") ))
}

state() {
  local state=none status=- stopped=no silent=0 id=none
  if is_running; then
    state=running
  elif [[ -e $run/status ]]; then
    state=ended status=$(< "$run/status")
  elif [[ -e $run/pid ]]; then
    state=lost
  fi
  if [[ -e $run/stopped ]]; then stopped=yes; fi
  if [[ -e $run/log.txt ]]; then silent=$(silence); fi
  if [[ -e $code/code ]]; then id=$(< "$code/code"); fi
  printf 'switch_tf worker=%s host=%s state=%s status=%s stopped=%s silent=%s code=%s\n' \
    "$(number)" "$(hostname)" $state "$status" $stopped "$silent" "$id"
}

# By hand, so that no supervisor starts the run again.
mark_stopped() {
  if is_running; then touch "$run/stopped"; fi
}

save() {
  is_running || return 0
  kill -TERM "$(< "$run/child")"
  for (( waited = 0; waited < $1; waited++ )); do
    is_running || return 0
    sleep 1
  done
  fail "the run still saves its step after $1 s: look again later"
}

# The whole process group, of which the number is that of its first process.
end_now() {
  is_running || return 0
  kill -KILL -- "-$(< "$run/pid")"
  echo 137 > "$run/status"
}

main() {
  case ${1-} in
    set_up | state) "$1" ;;
    start | save | attend) "$@" ;;
    stop) mark_stopped && save "$2" ;;
    end) end_now ;;
    kill) mark_stopped && end_now ;;
    log) tail -n "$2" "$run/log.txt" ;;
    *) fail "no such command: ${1-}" ;;
  esac
}

# Read as a whole before it begins, as a set-up may replace this file meanwhile.
main "$@"; exit
