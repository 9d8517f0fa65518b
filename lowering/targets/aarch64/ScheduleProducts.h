// The order of instructions in blocks that multiply bytes by NEON's dot and matrix products.
#pragma once

namespace llvm {
class Module;
} // namespace llvm

namespace bitloom {

// After LLVM's optimisation; four loads of neighbouring vectors become one instruction where that helps. A function
// that it has put into order has the attribute `scheduledAttribute`, and LLVM's scheduler is not to run on it: it takes
// more registers than there are, the less it knows of what tuples of them the loads want.
void scheduleProducts(llvm::Module &module);

} // namespace bitloom
