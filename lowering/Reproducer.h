// What a bug in the compiler leaves behind: the IR before the stage that failed, in a file that says how to replay it.
#pragma once

#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/Program.h"

#include <string>
#include <string_view>

namespace bitloom {

// Writes one .mlir file into $BITLOOM_REPRODUCER_DIR, else the directory for temporary files, and returns its path;
// empty, with no harm, where nothing can be written.
std::string saveReproducer(const Program &program, const Target &target, std::string_view stage,
                           std::string_view message);

struct Reproducer {
  Target target;
  std::string stage; // that failed
  std::string text;
};
// UserError: no such file, or not one that saveReproducer wrote.
Reproducer readReproducer(const std::string &file);

} // namespace bitloom
