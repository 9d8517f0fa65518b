# Brings a machine to where Bitloom builds: Debian packages, the virtual environment, the configured build folder.
# Every step looks first and does nothing, in well under a second, when there is nothing to do. Sourced by commands.

wanted_packages() { grep -E '^[a-z0-9]' scripts/packages.txt; }

installed_packages() {
  # A package that dpkg has never heard of makes dpkg-query fail after it has printed the others.
  dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | awk '$2 == "installed" { print $1 }' || true
}

missing_packages() {
  local wanted
  mapfile -t wanted < <(wanted_packages)
  comm -23 <(printf '%s\n' "${wanted[@]}" | sort -u) <(installed_packages "${wanted[@]}" | sort -u)
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "expected root or sudo to install Debian packages: $(missing_packages | tr '\n' ' ')"
  fi
}

ensure_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]} == 0)) && return
  say "Debian packages missing: ${missing[*]}"
  run_logged "apt-get update" as_root apt-get update || return 1
  run_logged "apt-get install" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
}

# The environment is good when its stamp holds the hash of what was asked for and of the interpreter that made it.
environment_hash() { { cat python/requirements-dev.txt; python3 -VV; printf '%s\n' "$root"; } | sha256sum; }

make_environment() {
  # torch before the rest: with it there, nothing else chooses another build of it.
  rm -rf "$venv" &&
    python3 -m venv "$venv" &&
    "$python" -m pip install --disable-pip-version-check "$(grep '^torch==' python/requirements-dev.txt)" &&
    "$python" -m pip install --disable-pip-version-check -r python/requirements-dev.txt &&
    install_ptxas &&
    import_from_build
}

has_ptxas() { command -v ptxas || [[ -x /usr/local/cuda/bin/ptxas ]]; } >/dev/null

# NVIDIA's assembler, with which the tests assemble PTX: the machine's, else a package's (its dependencies are not needed).
install_ptxas() {
  has_ptxas || "$python" -m pip install --disable-pip-version-check --no-deps nvidia-cuda-nvcc==13.0.88
}

use_installed_ptxas() {
  local program
  for program in "$root/$venv"/lib/python3*/site-packages/nvidia/*/bin/ptxas; do
    if [[ -x $program ]]; then export BITLOOM_PTXAS=$program; fi
  done
}

# `import bitloom` in the environment finds what the last build made.
import_from_build() {
  printf '%s\n' "$root/build/python" >"$("$python" -c 'import site; print(site.getsitepackages()[0])')/bitloom-build.pth"
}

ensure_environment() {
  local hash
  hash=$(environment_hash)
  [[ -x $python && $(cat "$venv/requirements.sha256" 2>/dev/null) == "$hash" ]] && return
  run_logged "Python environment" make_environment || return 1
  printf '%s\n' "$hash" >"$venv/requirements.sha256"
}

# ensure_configured PRESET FOLDER: configures once; afterwards ninja itself sees what changed in the CMake files. A folder
# that was configured otherwise loses its cache, since CMake takes no change of the compiler.
ensure_configured() {
  local preset=$1 folder=$2 hash
  hash=$({ cat CMakePresets.json; clang-22 --version; python3 -VV; } | sha256sum)
  [[ -f $folder/build.ninja && $(cat "$folder/configured.sha256" 2>/dev/null) == "$hash" ]] && return
  run_logged "configure $preset" cmake --fresh --preset "$preset" || return 1
  printf '%s\n' "$hash" >"$folder/configured.sha256"
}

ensure_machine() { ensure_packages && ensure_environment && use_installed_ptxas; }

# build_preset PRESET FOLDER [TARGET...]
build_preset() {
  ensure_machine && ensure_configured "$1" "$2" && run_logged "build $1" ninja -j "$jobs" -C "$2" "${@:3}"
}
