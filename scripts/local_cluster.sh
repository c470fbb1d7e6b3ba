#!/usr/bin/env bash
# Runs a command as N hosts of one run, which talk over loopback: to try on one machine what is to run
# on several.
# scripts/local_cluster.sh 2 switch-tf train --gin_file=...
# Sets up first. Shows the chief's output; that of each host is in runs/local_cluster/host_<i>.log. If
# a host ends badly, the others are ended, too. The exit status is that of the first such host, or 0.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
before=$PWD
cd "$root"
source scripts/setup.sh
cd "$before"
export PATH="$root/$setup_venv/bin:$PATH"
exec "$root/$setup_venv/bin/python" -m switch_tf.hosts.local "$@"
