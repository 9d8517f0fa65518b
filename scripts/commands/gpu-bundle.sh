# dist/bitloom-gpu.tar.xz: what tests and measures on a GPU machine that has Python 3.12 and torch; run.sh runs it
source scripts/machine.sh

bundle=dist/bitloom-gpu
largest=$((60 << 20)) # bytes of the archive

# A working python3.12: a version manager's may need its full path.
find_python312() {
  local candidate
  for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
    if "$candidate" --version >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  fail "expected a python3.12 on PATH or in pyenv, got none"
}

ensure_python312() {
  local environment=build-static/python3.12
  [[ -x $environment/bin/python ]] && "$environment/bin/python" -c 'import pybind11' 2>/dev/null && return
  "$(find_python312)" -m venv --clear "$environment" && "$environment/bin/python" -m pip install pybind11
}

fill_bundle() {
  rm -rf "$bundle"
  mkdir -p "$bundle/bin" "$bundle/lib"
  cmake --install build-static --strip --component python --prefix "$bundle/python"
  cmake --install build-static --strip --component tools --prefix "$bundle"
  ln -s ../python/bitloom/libbitloom.so "$bundle/lib/" # where the tools look
  install -s -m 755 build-static/bin/{lib_tests,launch_bench} "$bundle/bin/"
  install -s build-static/lib/libnineteen.so "$bundle/lib/"
  (cd python && find bitloom -name '*.py' -exec cp --parents {} "../$bundle/python/" \;)
  cp -r tests/perf "$bundle/"
  mkdir "$bundle/tests"
  cp -r tests/numerics tests/python "$bundle/tests/"
  find kernels -name reference.py -exec cp --parents {} "$bundle" \;
  find "$bundle" -name __pycache__ -prune -exec rm -r {} +
  "$python" -m pip wheel -q --no-deps -w "$bundle/wheels" liger-kernel==0.8.5 gemlite==0.6.0.post2
}

pack_bundle() {
  tar -C "$bundle" -c . | xz -T "$jobs" -6 >"$bundle.tar.xz"
  cp tests/gpu/run.sh dist/
}

run_command() {
  local size
  ensure_machine
  run_logged "Python 3.12 environment" ensure_python312
  build_preset gpu-bundle build-static lib_tests launch_bench nineteen bitloom-cli python_stubs
  run_logged "fill $bundle" fill_bundle
  run_logged "pack $bundle" pack_bundle
  size=$(stat -c %s "$bundle.tar.xz")
  say "$bundle.tar.xz: $((size >> 10)) KiB"
  ((size <= largest)) || fail "expected an archive of at most $((largest >> 20)) MiB"
}
