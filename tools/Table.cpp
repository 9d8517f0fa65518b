#include "bitloom/tools/Table.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

namespace bitloom::tools {

// Columns as a terminal shows them: the bytes of UTF-8 that begin a character.
static size_t widthOf(std::string_view text) {
  return size_t(std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string tableOf(const std::vector<std::vector<std::string>> &rows) {
  std::vector<size_t> widths;
  std::vector<bool> numbers;
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t c = 0; c < rows[r].size(); ++c) {
      if (c == widths.size()) {
        widths.push_back(0);
        numbers.push_back(false);
      }
      widths[c] = std::max(widths[c], widthOf(rows[r][c]));
      if (r > 0 && !rows[r][c].empty() && std::isdigit(static_cast<unsigned char>(rows[r][c][0])))
        numbers[c] = true;
    }
  std::string text;
  for (const auto &row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      std::string blanks(widths[c] - widthOf(row[c]), ' ');
      line += (c ? "  " : "") + (numbers[c] ? blanks + row[c] : row[c] + blanks);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string fixed(double number, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, number);
  return text;
}

std::string jsonString(std::string_view text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\')
      quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      quoted += escape;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

} // namespace bitloom::tools
