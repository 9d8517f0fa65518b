# Formatting, ruff, and the house's own rules. All of the linters are pytest tests under tests/lint. Sourced.

clang_format=/usr/lib/llvm-22/bin/clang-format

cpp_files() { git ls-files '*.cpp' '*.h'; }

format_cpp() { cpp_files | xargs -r -P "$jobs" -n 16 "$clang_format" -i; }

# One line for each file that is not formatted.
check_cpp_format() {
  local unformatted
  unformatted=$(cpp_files | xargs -r -P "$jobs" -n 16 "$clang_format" --dry-run 2>&1 | sed -n 's/:[0-9]*:[0-9]*: warning:.*/: expected the format of clang-format (.\/dev format)/p' | sort -u)
  [[ -z $unformatted ]] || { say "$unformatted" && return 1; }
}

format_python() { "$python" -m ruff format . && "$python" -m ruff check --fix .; }

check_python() {
  "$python" -m ruff format --check --output-format concise . && "$python" -m ruff check --output-format concise .
}

# lint [PYTEST-ARGUMENT...]: one of the rules compares docs/reference with what the build writes now.
lint() {
  build_preset dev build references
  run_logged "lint" "$python" -m pytest -q --tb=short "$@" tests/lint
}
