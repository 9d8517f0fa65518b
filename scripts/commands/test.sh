# build everything, run every test and the linters; arguments choose suites: cpp, python, lint
source scripts/machine.sh

results=build/results

# ctest runs the unit tests and lit, which leave one report each; ctest's own names what left none.
test_cpp() {
  mkdir -p "$results/cpp"
  run_logged "tests in C++" env \
    GTEST_OUTPUT="xml:$PWD/$results/cpp/" \
    LIT_OPTS="--xunit-xml-output=$PWD/$results/cpp/lit.xml" \
    ctest --test-dir build --parallel "$jobs" --output-on-failure --output-junit "$PWD/$results/ctest.xml"
}

test_python() {
  local folders
  mapfile -t folders < <(git ls-files 'tests/*/test_*.py' | grep -v '^tests/lint/' | cut -d / -f 1-2 | sort -u)
  ((${#folders[@]} == 0)) && return
  run_logged "tests in Python" "$python" -m pytest -q --junitxml="$results/python.xml" "${folders[@]}"
}

test_lint() {
  source scripts/lint.sh
  lint --junitxml="$results/lint.xml"
}

run_command() {
  local suite suites=("${@:-cpp python lint}") failed=0
  read -ra suites <<<"${suites[*]}"
  for suite in "${suites[@]}"; do
    declare -F "test_$suite" >/dev/null || fail "expected a suite of cpp, python, lint, got '$suite'"
  done
  build_preset dev build
  rm -rf "$results" && mkdir -p "$results"
  for suite in "${suites[@]}"; do
    "test_$suite" || failed=1
  done
  python3 scripts/summarize_tests.py "$results" || failed=1
  return $failed
}
