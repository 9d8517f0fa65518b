// The passes of bitloom: their factories, and their registration for tools that run a pass by its name.
#pragma once

#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/Pass.h"

namespace bitloom {

#define GEN_PASS_DECL
#include "lowering/Passes.h.inc"
#define GEN_PASS_REGISTRATION
#include "lowering/Passes.h.inc"

} // namespace bitloom
