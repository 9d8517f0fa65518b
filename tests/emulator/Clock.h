// Vector clocks: what happened before what. Slots stand for threads and for the agents that work beside them (copies,
// tensor cores); a slot's count goes up as it goes on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace bitloom::ptx {

struct Stamp {
  int slot = -1; // nobody
  uint32_t count = 0;
};

class Clock {
public:
  uint32_t operator[](int slot) const { return size_t(slot) < counts.size() ? counts[slot] : 0; }
  bool covers(Stamp s) const { return s.slot < 0 || (*this)[s.slot] >= s.count; }
  bool covers(const Clock &other) const {
    for (size_t k = 0; k < other.counts.size(); ++k)
      if ((*this)[int(k)] < other.counts[k])
        return false;
    return true;
  }
  void raise(Stamp s) {
    if (size_t(s.slot) >= counts.size())
      counts.resize(s.slot + 1);
    counts[s.slot] = std::max(counts[s.slot], s.count);
  }
  void join(const Clock &other) {
    if (other.counts.size() > counts.size())
      counts.resize(other.counts.size());
    for (size_t k = 0; k < other.counts.size(); ++k)
      counts[k] = std::max(counts[k], other.counts[k]);
  }
  void meet(const Clock &other) { // what both cover
    counts.resize(std::min(counts.size(), other.counts.size()));
    for (size_t k = 0; k < counts.size(); ++k)
      counts[k] = std::min(counts[k], other.counts[k]);
  }

private:
  std::vector<uint32_t> counts;
};

// What one knows to have happened, and the part of it that a proxy fence made known to the asynchronous proxy as well.
struct Knowledge {
  Clock seen, fenced;
  void join(const Knowledge &other) {
    seen.join(other.seen);
    fenced.join(other.fenced);
  }
  void meet(const Knowledge &other) {
    seen.meet(other.seen);
    fenced.meet(other.fenced);
  }
};

} // namespace bitloom::ptx
