// Copies that run beside the threads: cp.async, bulk copies, and boxes of tensor maps. Each is done when it is issued;
// what it touches carries the stamp of an agent that others know of only after the wait for it.
#include "bitloom/tests/emulator/PtxMachine.h"

#include <cstring>

namespace bitloom::ptx {
namespace {

// Where the byte at an address of shared memory really lies: bits 4 to 6 are xored with as many from bit 7 on.
uint64_t swizzled(uint64_t address, int bytes) {
  uint64_t rows = bytes / 16 - (bytes != 0); // 7, 3, 1 or 0
  return address ^ (address >> 7 & rows) << 4;
}

// Calls visit(the box's row as coordinates, its number) for each row along dim 0.
template <class Visit> void forEachRow(const TensorMap &map, std::span<const int64_t> start, Visit visit) {
  int64_t rows = 1;
  for (int d = 1; d < map.rank; ++d)
    rows *= map.box[d];
  for (int64_t row = 0; row < rows; ++row) {
    std::array<int64_t, maxTensorMapRank> at{};
    at[0] = start[0];
    int64_t rest = row;
    for (int d = 1; d < map.rank; ++d) {
      at[d] = start[d] + rest % map.box[d];
      rest /= map.box[d];
    }
    visit(at, row);
  }
}

bool isInside(const TensorMap &map, const std::array<int64_t, maxTensorMapRank> &at, int from) {
  for (int d = from; d < map.rank; ++d)
    if (at[d] < 0 || at[d] >= map.extents[d])
      return false;
  return true;
}

uint64_t addressIn(const TensorMap &map, const std::array<int64_t, maxTensorMapRank> &at) {
  int64_t offset = at[0] * bytesOf(map.dtype);
  for (int d = 1; d < map.rank; ++d)
    offset += at[d] * map.strides[d];
  return uint64_t(map.address) + uint64_t(offset);
}

Type typeOf(DType dtype) {
  const DTypeFacts &facts = factsOf(dtype);
  char kind = dtype == DType::bf16              ? 'x'
              : facts.kind == DTypeKind::Float  ? 'f'
              : facts.kind == DTypeKind::Signed ? 's'
                                                : 'u';
  return {kind, facts.bits};
}

} // namespace

void Machine::copy(Thread &t, const Instruction &i) {
  bool isAsync = i.has("async");
  if (i.has("wait_group") || i.has("wait_all")) {
    if (i.has("wait_all"))
      t.copies.commit();
    bool isBulk = i.has("bulk");
    return await(isBulk ? t.bulkCopies : t.copies, i.operands.empty() ? 0 : read(t, i.operands[0]), t.knows);
  }
  if (i.has("commit_group"))
    return (i.has("bulk") ? t.bulkCopies : t.copies).commit();
  if (i.has("prefetch"))
    return;
  if (!isAsync)
    fail("unknown instruction: " + i.text);
  if (i.has("tensor"))
    copyTensor(t, i);
  else if (i.has("bulk"))
    copyBulk(t, i);
  else
    copyAsync(t, i);
}

//===- cp.async ---------------------------------------------------------------------------------------------------===//

void Machine::copyAsync(Thread &t, const Instruction &i) {
  if (t.copies.slot < 0)
    t.copies.slot = newSlot(false);
  if (i.has("mbarrier")) { // cp.async.mbarrier.arrive: when all copies so far are done
    SharedPlace place = placeOf(t, addressOf(t, i.operands[0]), i);
    Mbarrier &barrier = mbarrierAt(t, place, i);
    if (!i.has("noinc"))
      ++barrier.pending;
    barrier.arrived.seen.raise({t.copies.slot, t.copies.issued});
    return arrive(t, place, 1, 0, i);
  }
  size_t bytes = read(t, i.operands.at(2)), given = bytes;
  if (i.operands.size() > 3 && !i.has("L2::cache_hint")) {
    const Operand &o = i.operands[3];
    bool isPredicate = o.kind == Operand::Register && module.registers[o.index].kind == 'p';
    given = isPredicate ? (holds(t, o) ? 0 : bytes) : read(t, o) & 0xffffffff;
  }
  if ((bytes != 4 && bytes != 8 && bytes != 16) || (i.has("cg") && bytes != 16) || given > bytes)
    fail("expected 4, 8 or 16 bytes (16 of .cg): " + i.text);
  auto [block, at] = placeOf(t, addressOf(t, i.operands[0]), i);
  Stamp stamp{t.copies.slot, ++t.copies.issued};
  uint8_t *to = block.memory.at(at, bytes, bytes, {stamp, &t.knows, true, false}, i.text);
  std::memset(to, 0, bytes);
  if (given)
    std::memcpy(to, globalAt(t, addressOf(t, i.operands[1]), given, bytes, i), given);
}

//===- Bulk copies ------------------------------------------------------------------------------------------------===//

// Of a copy that signals an mbarrier.
Stamp Machine::copyStamp(const Thread &t, SharedPlace signal, const Instruction &i) {
  Mbarrier &barrier = mbarrierAt(t, signal, i);
  if (barrier.slot < 0)
    barrier.slot = newSlot(true);
  return {barrier.slot, ++barrier.copies};
}

void Machine::finishCopy(const Thread &t, SharedPlace signal, Stamp stamp, int64_t bytes, const Instruction &i) {
  Mbarrier &barrier = mbarrierAt(t, signal, i);
  barrier.arrived.seen.raise(stamp);
  barrier.bytes -= bytes;
  completeIfDone(signal, barrier);
}

Stamp Machine::bulkStoreStamp(Thread &t) {
  if (t.bulkCopies.slot < 0)
    t.bulkCopies.slot = newSlot(true);
  return {t.bulkCopies.slot, ++t.bulkCopies.issued};
}

void Machine::copyBulk(Thread &t, const Instruction &i) {
  size_t bytes = read(t, i.operands.at(2)) & 0xffffffff;
  if (bytes % 16)
    fail("expected a multiple of 16 bytes: " + i.text);
  if (i.has("bulk_group")) {
    auto [block, at] = placeOf(t, addressOf(t, i.operands[1]), i);
    uint8_t *to = globalAt(t, addressOf(t, i.operands[0]), bytes, 16, i);
    std::memcpy(to, block.memory.at(at, bytes, 16, {bulkStoreStamp(t), &t.knows, false, true}, i.text), bytes);
    return;
  }
  if (!i.has("mbarrier::complete_tx::bytes") || !i.has("global"))
    fail("unknown instruction: " + i.text);
  SharedPlace to = placeOf(t, addressOf(t, i.operands[0]), i), signal = placeOf(t, addressOf(t, i.operands.at(3)), i);
  Stamp stamp = copyStamp(t, signal, i);
  reach(t, to.block, stamp);
  const uint8_t *from = globalAt(t, addressOf(t, i.operands[1]), bytes, 16, i);
  std::memcpy(to.block.memory.at(to.address, bytes, 16, {stamp, &t.knows, true, true}, i.text), from, bytes);
  finishCopy(t, signal, stamp, int64_t(bytes), i);
}

//===- Boxes of tensor maps ---------------------------------------------------------------------------------------===//

const TensorMap &Machine::mapOf(Thread &t, const Operand &o, const Instruction &i) {
  uint64_t handle = addressOf(t, o) - tensorMapHandles;
  if (handle % tensorMapBytes || handle / tensorMapBytes >= launch.maps.size())
    fail("not a tensor map: " + i.text);
  const TensorMap &map = launch.maps[handle / tensorMapBytes];
  if (!i.has((std::to_string(map.rank) + "d").c_str()) || o.parts.size() != size_t(map.rank))
    fail("expected a tensor map of the instruction's rank: " + i.text);
  int64_t inner = int64_t(map.box[0]) * bytesOf(map.dtype);
  if (inner % 16 || (map.swizzle && inner != map.swizzle) || uint64_t(map.address) % 16)
    fail("expected boxes whose inner dim is a multiple of 16 bytes, of the swizzle's size if it has one: " + i.text);
  for (int d = 0; d < map.rank; ++d)
    if (map.box[d] < 1 || map.box[d] > 256 || map.extents[d] < 1 || (d && map.strides[d] % 16))
      fail("expected boxes of 1 to 256 elements and strides of 16 bytes: " + i.text);
  return map;
}

void Machine::copyTensor(Thread &t, const Instruction &i) {
  for (const std::string &mod : i.mods)
    if (mod.starts_with("im2col") || mod.starts_with("tile::"))
      fail("unknown instruction: " + i.text);
  bool isStore = i.has("bulk_group");
  const Operand &mapAndStart = i.operands.at(isStore ? 0 : 1);
  const TensorMap &map = mapOf(t, mapAndStart, i);
  std::vector<int64_t> start;
  for (const Operand &part : mapAndStart.parts)
    start.push_back(signExtend(read(t, part), 32));
  if (start[0] * bytesOf(map.dtype) % 16)
    fail("expected a box that starts at a multiple of 16 bytes along dim 0: " + i.text);
  SharedPlace place = placeOf(t, addressOf(t, i.operands.at(isStore ? 1 : 0)), i);
  if (place.address % 128)
    fail("expected a shared address aligned to 128 bytes: " + i.text);
  if (isStore)
    return storeBox(t, i, map, start, place);
  SharedPlace signal = placeOf(t, addressOf(t, i.operands.at(2)), i);
  if (!i.has("multicast::cluster"))
    return loadBox(t, i, map, start, place, signal);
  uint64_t blocks = read(t, i.operands.at(3)) & 0xffff;
  if (!blocks || blocks >> cluster.size())
    fail("no such block in the cluster: " + i.text);
  for (size_t rank = 0; rank < cluster.size(); ++rank)
    if (blocks >> rank & 1)
      loadBox(t, i, map, start, {blockOf(rank, i), place.address}, {blockOf(rank, i), signal.address});
}

void Machine::loadBox(Thread &t, const Instruction &i, const TensorMap &map, std::span<const int64_t> start,
                      SharedPlace to, SharedPlace signal) {
  const int64_t size = bytesOf(map.dtype), inner = map.box[0] * size;
  int64_t bytes = 0;
  std::vector<uint8_t> line(inner);
  Stamp stamp = copyStamp(t, signal, i);
  reach(t, to.block, stamp);
  forEachRow(map, start, [&](const auto &at, int64_t row) {
    std::fill(line.begin(), line.end(), 0);
    int64_t first = std::max<int64_t>(0, -at[0]), last = std::min<int64_t>(map.box[0], map.extents[0] - at[0]);
    if (isInside(map, at, 1) && first < last) {
      auto from = at;
      from[0] += first;
      size_t count = size_t((last - first) * size);
      std::memcpy(line.data() + first * size, globalAt(t, addressIn(map, from), count, 1, i), count);
    }
    for (int64_t k = 0; k < inner; k += 16) {
      uint64_t address = swizzled(to.address + row * inner + k, map.swizzle);
      std::memcpy(to.block.memory.at(address, 16, 16, {stamp, &t.knows, true, true}, i.text), line.data() + k, 16);
    }
    bytes += inner;
  });
  finishCopy(t, signal, stamp, bytes, i);
}

// Also reductions into global memory. Where a row ends within 16 bytes, all of these are written, as Hopper does.
void Machine::storeBox(Thread &t, const Instruction &i, const TensorMap &map, std::span<const int64_t> start,
                       SharedPlace from) {
  const int64_t size = bytesOf(map.dtype), inner = map.box[0] * size;
  const Type type = typeOf(map.dtype);
  TensorMap written = map;
  written.extents[0] = (map.extents[0] * size + 15) / 16 * 16 / size;
  std::vector<uint8_t> line(inner);
  Stamp stamp = bulkStoreStamp(t);
  forEachRow(map, start, [&](const auto &at, int64_t row) {
    for (int64_t k = 0; k < inner; k += 16) {
      uint64_t address = swizzled(from.address + row * inner + k, map.swizzle);
      std::memcpy(line.data() + k, from.block.memory.at(address, 16, 16, {stamp, &t.knows, false, true}, i.text), 16);
    }
    auto element = at;
    for (int64_t k = 0; k < map.box[0]; ++k, ++element[0]) {
      if (!isInside(written, element, 0))
        continue;
      uint8_t *to = globalAt(t, addressIn(map, element), size, size, i);
      uint64_t value = 0, old = 0;
      std::memcpy(&value, line.data() + k * size, size);
      std::memcpy(&old, to, size);
      if (i.has("reduce"))
        value = combine(i, type, old, value);
      std::memcpy(to, &value, size);
    }
  });
}

} // namespace bitloom::ptx
