// Tables and JSON for stdout.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bitloom::tools {

// Rows of cells, the first the header. Columns are as wide as their widest cell, two blanks between; cells that begin
// with a digit stand on the right of theirs, as does their header.
std::string tableOf(const std::vector<std::vector<std::string>> &rows);

// printf's "%.*f".
std::string fixed(double number, int digits);

// The text as a JSON string, quotes included.
std::string jsonString(std::string_view text);

} // namespace bitloom::tools
