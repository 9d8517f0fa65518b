# measure beside the peers: host (this CPU) or gpu (this GPU); the scripts are tests/perf
source scripts/machine.sh

run_command() {
  local what=${1:-} known
  known=$(cd tests/perf && ls -- *.py | sed -n 's/\.py$//p' | grep -v '^timing$' | tr '\n' ' ')
  [[ " $known" == *" $what "* ]] || fail "expected one of ${known% }, got '$what'"
  build_preset dev build
  "$python" "tests/perf/$what.py" "${@:2}"
}
