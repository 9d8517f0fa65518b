# write docs/reference, and the IR that docs/architecture.md shows
source scripts/machine.sh

run_command() {
  build_preset dev build references
  rm -rf docs/reference
  cp -r build/docs/reference docs/reference
  python3 scripts/walkthrough.py docs/architecture.md build/bin/bitloom
  say "wrote docs/reference: $(ls docs/reference | tr '\n' ' ')"
}
