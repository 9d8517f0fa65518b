// Small integer expressions over names: extents of views ("n, k * bits / 8") and defaults of Meta parameters.
//
//   expression  comparison: sum ((<= | < | >= | > | == | !=) sum)?    1 where it holds, else 0
//   sum         product ((+ | -) product)*
//   product     factor ((* | / | %) factor)*                          / rounds towards zero
//   factor      number | name | name.fact | function(expression, …) | (expression)
//   functions   min, max, ceil_div(a, b), round_up(x, multiple), next_pow2(x)
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

// The value of a name (or of "name.fact", what is known of a view), or none when it has none yet.
using Names = std::function<std::optional<int64_t>(std::string_view)>;

// The value of the expression; none when a name in it has no value. Throws UserError for text that is no expression and
// for a division by zero.
std::optional<int64_t> evaluate(std::string_view expression, const Names &names);

// Whether the text is a name alone.
bool isName(std::string_view text);

// The pieces between top-level commas, without surrounding blanks; none for blank text.
std::vector<std::string> splitList(std::string_view text);

} // namespace bitloom
