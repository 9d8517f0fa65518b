#!/usr/bin/env bash
# Tests and measures on a machine with a GPU, Python 3.12 and torch, on which nothing was built: unpacks the archive of
# `./dev gpu-bundle` beside this file into a fresh folder and runs from there. What it measures is printed, and written
# to $OUT where that is set.
# usage: run.sh [tests | gemm|gpu|train|losses|low_bit|launch [ARGUMENT...]]; without an argument all of them in turn, each
# bounded in time
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
out=${OUT:-$(mktemp -d)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tar -xJf "$here/bitloom-gpu.tar.xz" -C "$folder"
python3 -m pip install -q --no-deps --no-index --target "$folder/peers" "$folder"/wheels/*.whl || true
export PATH=$folder/bin:$PATH PYTHONPATH=$folder/python:$folder/peers BITLOOM_CACHE_DIR=$folder/cache

run_tests() {
  lib_tests --gtest_filter='*Cuda*' --gtest_brief=1
  bitloom check --all --target cuda
  python3 -m pytest -q -k cuda "$folder/tests/numerics" "$folder"/tests/python/test_{calls,errors,torch_ops}.py
}

measure() {
  local what=$1
  shift
  case $what in
    gemm) python3 "$folder/perf/gemm.py" --out "$out" "$@" ;;
    gpu | losses | low_bit) python3 "$folder/perf/$what.py" --json "$out/$what.json" "$@" ;;
    train) python3 "$folder/perf/train.py" --json "$out/train.json" --plot "$out/train" "$@" ;;
    launch)
      LD_LIBRARY_PATH=$folder/lib launch_bench "$folder/lib/libnineteen.so"
      python3 "$folder/perf/launch.py" --nineteen "$folder/lib/libnineteen.so" "$@"
      ;;
    *) echo "run.sh: expected tests, gemm, gpu, train, losses, low_bit or launch, got '$what'" >&2 && exit 2 ;;
  esac
}

# Measurements go on where one fails; the exit status says whether one did.
run_all() {
  local failed=0 what
  timeout 400 "${BASH_SOURCE[0]}" tests || failed=1
  for what in launch gpu train losses low_bit gemm; do
    timeout 300 "${BASH_SOURCE[0]}" "$what" || failed=1
  done
  return $failed
}

case ${1:-all} in
  all) run_all ;;
  tests) run_tests ;;
  *) measure "$@" ;;
esac
