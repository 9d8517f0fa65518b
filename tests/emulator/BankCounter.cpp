#include "bitloom/tests/emulator/BankCounter.h"

#include <algorithm>
#include <set>

namespace bitloom::ptx {

void BankCounter::note(int block, int thread, size_t at, uint64_t address, size_t bytes) {
  const int turn = turns[{block, thread, at}]++;
  Lanes &lanes = accesses[{block, thread / 32, at, turn}];
  lanes.addresses[size_t(thread % 32)] = address;
  lanes.bytes[size_t(thread % 32)] = bytes;
}

// Of 8 or 16 bytes a thread, a half or a quarter of the lanes at a time.
int64_t BankCounter::wavefrontsOf(const Lanes &lanes, bool withoutConflicts) const {
  const size_t widest = *std::max_element(lanes.bytes.begin(), lanes.bytes.end()),
               served = 32 / std::max(widest / 4, size_t(1));
  int64_t wavefronts = 0;
  for (size_t first = 0; first < 32; first += served) {
    std::map<uint64_t, std::set<uint64_t>> words; // of each bank
    size_t most = 0;
    for (size_t lane = first; lane < first + served; ++lane)
      for (uint64_t word = lanes.addresses[lane] / 4; word * 4 < lanes.addresses[lane] + lanes.bytes[lane]; ++word) {
        words[word % 32].insert(word);
        most = std::max(most, words[word % 32].size());
      }
    wavefronts += int64_t(withoutConflicts ? std::min(most, size_t(1)) : most);
  }
  return wavefronts;
}

void BankCounter::finish() {
  for (const auto &[access, lanes] : accesses) {
    wavefronts += wavefrontsOf(lanes, false);
    least += wavefrontsOf(lanes, true);
  }
  accesses.clear();
  turns.clear();
}

} // namespace bitloom::ptx
