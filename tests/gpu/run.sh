#!/usr/bin/env bash
# Tests and measures on a machine with a GPU, Python 3.12 and torch, on which nothing was built: unpacks the archive of
# `./dev gpu-bundle` beside this file into a fresh folder and runs from there.
# usage: run.sh [tests|bench|all] [ARGUMENT of the benchmark...]
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
what=${1:-all}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

tar -xJf "$here/bitloom-gpu.tar.xz" -C "$folder"
export PATH=$folder/bin:$PATH PYTHONPATH=$folder/python BITLOOM_CACHE_DIR=$folder/cache

run_tests() {
  lib_tests --gtest_filter='*Cuda*' --gtest_brief=1
  bitloom check --all --target cuda
}

run_benchmark() { python3 "$folder/perf/gpu.py" "$@"; }

case $what in
  tests) run_tests ;;
  bench) run_benchmark "${@:2}" ;;
  all) run_tests && run_benchmark "${@:2}" ;;
  *) echo "run.sh: expected tests, bench or all, got '$what'" >&2 && exit 2 ;;
esac
