# format C++ (clang-format) and Python (ruff); --check only says what it would change
source scripts/machine.sh
source scripts/lint.sh

run_command() {
  ensure_machine
  case ${1:-} in
    "") format_cpp && format_python ;;
    --check) check_cpp_format && check_python ;;
    *) fail "expected nothing or --check, got '$1'" ;;
  esac
}
