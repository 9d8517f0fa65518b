# check formatting, Python's style and the house's own rules (tests/lint)
source scripts/machine.sh
source scripts/lint.sh

run_command() { lint; }
