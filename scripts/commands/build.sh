# build everything into build/; arguments are ninja targets
source scripts/machine.sh

run_command() { build_preset dev build "$@"; }
