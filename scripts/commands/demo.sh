# quantise a real sentence encoder to 8 and 4 bits, embed sentences, show what a kernel became
source scripts/machine.sh

run_command() {
  build_preset dev build
  "$python" examples/minilm/demo.py "$@"
}
