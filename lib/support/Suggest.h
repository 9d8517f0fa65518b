// "did you mean": the nearest of a list of names, for messages about a misspelt one.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace bitloom {

// The candidate fewest edits (insertion, deletion, substitution, swap of neighbours) away from `name`, letters compared
// without case, the longer common beginning among equals; empty when all are further than a third of the name's length
// (at least 1, at most 3 edits).
std::string closestTo(std::string_view name, std::span<const std::string> candidates);

// "a, b, c"
std::string joined(std::span<const std::string> names, std::string_view separator = ", ");

// ": did you mean 'x'? expected one of a, b, c", the question only when something is close.
std::string expectedOneOf(std::string_view name, std::span<const std::string> candidates);

} // namespace bitloom
