#!/usr/bin/env bash
# What only a GPU can show: tests, training steps beside other implementations, loading, CIFAR-10, in --seconds (840).
# Each part writes what it found as it ends; the same command with the same --out goes on. docs/speed.md says more.
#
#   bash benchmarks/gpu.sh --out found [--cifar FOLDER]     on a machine with a CUDA torch; needs no network
#   bash benchmarks/gpu.sh --out found --wheels wheels      first installs, aside, what lies in wheels/
#   bash benchmarks/gpu.sh --out found --rehearse           all of it at toy size on the CPU, in minutes
set -euo pipefail
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3} wheels="" words=()
while (($#)); do
  case $1 in
    --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
    *) words+=("$1"); shift ;;
  esac
done
if [[ -n $wheels ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$clone${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"$python" "$clone/benchmarks/gpu.py" "${words[@]}"
