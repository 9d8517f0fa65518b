// Passes that have not landed yet: asking for one is an error. Each is overridden by the pass itself.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Passes.h"

namespace bitloom {

[[noreturn]] static void unavailable(const char *pass) { throw InternalError(std::string("no pass ") + pass); }

__attribute__((weak)) std::unique_ptr<mlir::Pass> createTileToLoops(TileToLoopsOptions) {
  unavailable("tile-to-loops");
}

} // namespace bitloom
