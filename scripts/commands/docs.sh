# write the generated references into docs/reference
source scripts/machine.sh

run_command() {
  build_preset dev build references
  rm -rf docs/reference
  cp -r build/docs/reference docs/reference
  say "wrote docs/reference: $(ls docs/reference | tr '\n' ' ')"
}
