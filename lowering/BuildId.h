// Which build of the compiler this is: code from another one is not taken from the disk cache.
#pragma once

#include <string>

namespace bitloom {

// The version of LLVM and the linker's hash (the ELF note GNU build-id) of the file that holds this function; where the
// file carries none, its size and time of change.
const std::string &compilerBuildId();

// The same of the file, a program or a shared library, that holds this address; empty where none does.
std::string buildIdOf(const void *address);

} // namespace bitloom
