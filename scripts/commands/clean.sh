# remove what the other commands made: build folders, dist and, with --all, the virtual environment
run_command() {
  case ${1:-} in
    "") rm -rf build build-static build-wheel dist ;;
    --all) rm -rf build build-static build-wheel dist "$venv" ;;
    *) fail "expected nothing or --all, got '$1'" ;;
  esac
}
