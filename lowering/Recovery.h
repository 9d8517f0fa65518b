// Turns a crash of the compiler into an error, so that a bug in it does not end the program that called it.
#pragma once

#include "llvm/ADT/STLFunctionalExtras.h"

#include <optional>
#include <string>

namespace bitloom {

// Runs `work`, passing its exceptions on. When it crashes instead (a signal, or a fatal error of LLVM), returns what is
// known of why, perhaps nothing; what `work` had allocated is lost then. Signal handlers are replaced meanwhile.
std::optional<std::string> recoverCrash(llvm::function_ref<void()> work);

} // namespace bitloom
