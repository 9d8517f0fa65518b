#include "bitloom/lib/packing/Packing.h"
#include "bitloom/tools/Commands.h"

#include <cstdio>

namespace bitloom::tools {

static int runPacking(const Arguments &arguments) {
  Packing packing = asUsage([&] {
    Packing parsed = Packing::parse(arguments.operands()[0]);
    parsed.check();
    return parsed;
  });
  std::fputs(packing.drawing().c_str(), stdout);
  return 0;
}

const Command packingCommand = {
    .name = "packing",
    .operands = "bits=B,order=ORDER,block=N",
    .leastOperands = 1,
    .mostOperands = 1,
    .summary = "draw where each bit of a packed value sits",
    .description =
        "B is a width of 1 to 8 bits. ORDER is the order of the values in a plane of bits: low (the first "
        "value in the\n"
        "low bits of the first byte), high (in its high bits), planar (neighbours in neighbouring bytes) or "
        "fragments\n"
        "(as a thread of a GPU feeds them to its tensor cores). N values are packed together, a power of two "
        "from 8, or\n"
        "from 128 of fragments. A row of the drawing is a byte, its bits from 7 to 0, each "
        "cell reading\n"
        "value.bit.\n",
    .run = runPacking,
};

} // namespace bitloom::tools
