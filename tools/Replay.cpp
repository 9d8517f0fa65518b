#include "bitloom/lowering/Pipeline.h"
#include "bitloom/tools/Commands.h"

#include <cstdio>

namespace bitloom::tools {

static int runReplay(const Arguments &arguments) {
  Replay outcome = asUsage([&] { return replay(arguments.operands()[0]); });
  std::printf("%s\n", outcome.report.c_str());
  return outcome.passes ? 0 : 1;
}

const Command replayCommand = {
    .name = "replay",
    .operands = "FILE",
    .leastOperands = 1,
    .mostOperands = 1,
    .summary = "run again what a bug in the compiler left behind",
    .description =
        "When a pass fails, bitloom says so, names the operation and its line in your source, and saves the program "
        "as\n"
        "it was before the stage that failed, into $BITLOOM_REPRODUCER_DIR or the folder for temporary files. This "
        "runs\n"
        "that stage and those after it on such a file, checking the program after every pass. The exit code is 0 when\n"
        "it compiles now and 1 when it still fails. Please send the file with a report.\n",
    .run = runReplay,
};

} // namespace bitloom::tools
