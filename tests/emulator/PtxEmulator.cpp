#include "bitloom/tests/emulator/PtxEmulator.h"

#include "bitloom/tests/emulator/PtxMachine.h"

namespace bitloom {

struct PtxEmulator::Impl {
  ptx::Module module;
  std::map<uint64_t, uint64_t> allowed;
  std::string printed;
  std::pair<uint64_t, size_t> watched{};
  ptx::BankCounter banks;
  ptx::Machine machine;
  explicit Impl(const std::string &text) : module(text), machine(module, allowed, printed) {
    for (auto &[name, data] : module.globals)
      allowed[uint64_t(data.data())] = uint64_t(data.data()) + data.size();
  }
};

PtxEmulator::PtxEmulator(const std::string &ptx) : impl(std::make_unique<Impl>(ptx)) {}
PtxEmulator::~PtxEmulator() = default;
int PtxEmulator::threads() const { return impl->module.threads; }
const std::string &PtxEmulator::printed() const { return impl->printed; }

void PtxEmulator::allow(const void *memory, size_t bytes) {
  if (!bytes)
    return;
  const uint64_t start = uint64_t(memory), end = start + bytes;
  auto &allowed = impl->allowed; // what was allocated there before is gone
  allowed.erase(allowed.lower_bound(start), allowed.lower_bound(end));
  allowed[start] = end;
}

void PtxEmulator::countBanks() { impl->machine.countBanks(impl->banks); }
int64_t PtxEmulator::wavefronts() const { return impl->banks.wavefronts; }
int64_t PtxEmulator::leastWavefronts() const { return impl->banks.least; }

void PtxEmulator::watch(const void *memory, size_t bytes) {
  allow(memory, bytes);
  impl->watched = {uint64_t(memory), bytes};
}

void PtxEmulator::launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, int sharedBytes,
                         std::span<const TensorMap> maps) {
  impl->machine.run({words, maps, grid, size_t(sharedBytes), impl->watched});
}

} // namespace bitloom
