# Sourced by the other scripts of this folder: runs a command of switch_tf.cloud, which needs no more
# than Python and gcloud, so that it also runs on a laptop without the set-up.
python=""
for candidate in python3.11 python3; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  echo "error: Python 3.11 or newer is needed, as python3.11 or python3 on the PATH" >&2
  exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m switch_tf.cloud "$@"
