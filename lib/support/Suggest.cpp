#include "bitloom/lib/support/Suggest.h"

#include <algorithm>
#include <cctype>
#include <vector>

namespace bitloom {

// Optimal string alignment distance: Levenshtein's recurrence plus a swap of two neighbours.
static size_t editDistance(std::string_view a, std::string_view b) {
  auto same = [](char x, char y) { return std::tolower((unsigned char)x) == std::tolower((unsigned char)y); };
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + !same(a[i - 1], b[j - 1])});
      if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  return cost[a.size()][b.size()];
}

std::string closestTo(std::string_view name, std::span<const std::string> candidates) {
  size_t limit = std::clamp<size_t>(name.size() / 3, 1, 3), bestDistance = limit + 1, bestPrefix = 0;
  std::string best;
  for (const std::string &candidate : candidates) {
    size_t distance = editDistance(name, candidate);
    size_t prefix = std::mismatch(name.begin(), name.end(), candidate.begin(), candidate.end()).first - name.begin();
    if (distance > limit || distance > bestDistance || (distance == bestDistance && prefix <= bestPrefix))
      continue;
    best = candidate;
    bestDistance = distance;
    bestPrefix = prefix;
  }
  return best;
}

std::string joined(std::span<const std::string> names, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += (i ? std::string(separator) : "") + names[i];
  return text;
}

std::string expectedOneOf(std::string_view name, std::span<const std::string> candidates) {
  std::string close = closestTo(name, candidates);
  return (close.empty() ? ": " : ": did you mean '" + close + "'? ") + "expected one of " + joined(candidates);
}

} // namespace bitloom
