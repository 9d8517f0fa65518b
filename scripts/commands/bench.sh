# measure beside the peers: host, train, counts (instructions, under qemu), gpu or gemm (on a GPU); scripts of tests/perf
source scripts/machine.sh

run_command() {
  local what=${1:-} known
  known=$(cd tests/perf && grep -l __main__ -- *.py | sed 's/\.py$//' | tr '\n' ' ')
  [[ " $known" == *" $what "* ]] || fail "expected one of ${known% }, got '$what'"
  build_preset dev build
  "$python" "tests/perf/$what.py" "${@:2}"
}
