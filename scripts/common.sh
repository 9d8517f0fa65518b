# What every command shares: paths, messages, and the running of long steps. Sourced by ./dev.

log_dir=build/log
venv=.venv
python=$venv/bin/python
jobs=$(nproc)

say() { printf '%s\n' "$*"; }

fail() {
  printf 'dev: %s\n' "$*" >&2
  exit 1
}

# Shows that a step is alive: its last line on a terminal, one line in 30 seconds elsewhere.
show_progress() {
  local line shown=$SECONDS
  while IFS= read -r line; do
    if [[ -t 1 ]]; then
      printf '\r\033[K%.*s' "$(tput cols 2>/dev/null || echo 80)" "$line"
    elif ((SECONDS - shown >= 30)); then
      printf '  … %s\n' "${line:0:110}"
      shown=$SECONDS
    fi
  done
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
}

# run_logged TITLE COMMAND...: the output goes to a file; a failure prints its end and returns the command's failure.
run_logged() {
  local title=$1 started=$SECONDS log
  log=$log_dir/${title//[ \/]/-}.log
  mkdir -p "$log_dir"
  say "$title"
  if "${@:2}" 2>&1 | tee "$log" | show_progress; then
    say "  done in $((SECONDS - started)) s"
  else
    tail -n 60 "$log"
    say "  failed after $((SECONDS - started)) s; all of its output: $log"
    return 1
  fi
}

# The given files' contents and words, as one hash: what a stamp file holds.
hash_of() { { cat -- "$@" 2>/dev/null || true; } | sha256sum | cut -d ' ' -f 1; }
