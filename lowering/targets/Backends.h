// The families of targets, each by the function that its folder defines.
#pragma once

#include "bitloom/lowering/Backend.h"

namespace bitloom {

const Backend &x86Backend();
const Backend &aarch64Backend();
const Backend &nvptxBackend();

} // namespace bitloom
