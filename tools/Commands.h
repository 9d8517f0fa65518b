// The subcommands: each is defined in the file of its name.
#pragma once

#include "bitloom/tools/Arguments.h"

namespace bitloom::tools {

extern const Command listCommand, inspectCommand, checkCommand, benchCommand, buildCommand, packCommand, packingCommand,
    replayCommand, tuneCommand;

} // namespace bitloom::tools
