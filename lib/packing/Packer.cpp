#include "bitloom/lib/packing/Packer.h"

#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <span>
#include <type_traits>

namespace bitloom {

// Values taken at a time: long enough for vectors, and three copies of them stay in the first-level cache.
constexpr int valuesAtATime = 2048;

Packer::Packer(const Packing &packing, int64_t blocks) : described(packing), row(packing) {
  described.check();
  row.rows = 1;
  one = planFor(1);
  many = planFor(int(std::clamp<int64_t>(blocks, 1, std::max(1, valuesAtATime / row.block))));
}

Packer::Plan Packer::planFor(int blocks) const {
  Plan plan{blocks, {}};
  for (const Packing::Plane &layout : row.planes()) {
    Plane plane{layout.bits, layout.shift, layout.byteOffset, row.block * layout.bits / 8, {}, {}};
    const int fieldLength = plane.bytes * blocks;
    plane.source.resize(size_t(row.block) * size_t(blocks));
    for (int column = 0; column < row.block; ++column) {
      const Packing::Field field = layout.field(column);
      const int position = field.shift / plane.bits * fieldLength + field.byte - plane.byteOffset;
      for (int b = 0; b < blocks; ++b)
        plane.source[size_t(position + b * plane.bytes)] = b * row.block + column;
    }
    for (int32_t at = 0, end = int32_t(plane.source.size()); at < end;) {
      int32_t next = at + 1;
      while (next < end && plane.source[size_t(next)] == plane.source[size_t(next) - 1] + 1)
        ++next;
      plane.runs.push_back({plane.source[size_t(at)], at, next - at});
      at = next;
    }
    if (plane.source.size() < 16 * plane.runs.size())
      plane.runs.clear();
    plan.planes.push_back(std::move(plane));
  }
  return plan;
}

// Bytes may alias all else, and a compiler that must think so reads the indices anew each time.

static void gather(std::span<const int32_t> source, const uint8_t *__restrict values, uint8_t *__restrict ordered) {
  const int32_t *__restrict at = source.data();
  for (size_t i = 0, count = source.size(); i < count; ++i)
    ordered[i] = values[at[i]];
}

static void scatter(std::span<const int32_t> source, const uint8_t *__restrict ordered, uint8_t *__restrict values) {
  const int32_t *__restrict at = source.data();
  for (size_t i = 0, count = source.size(); i < count; ++i)
    values[at[i]] |= ordered[i];
}

static void merge(const uint8_t *__restrict from, uint8_t *__restrict to, int count) {
  for (int i = 0; i < count; ++i)
    to[i] |= from[i];
}

#if defined(__x86_64__)
#define BITLOOM_ANY_VECTORS [[gnu::target_clones("avx2", "default")]]
#else
#define BITLOOM_ANY_VECTORS
#endif

// to[i] = or of field f of from[f · length + i], p bits from `shift` on, over the fields of a byte.
BITLOOM_ANY_VECTORS static void packFields(const uint8_t *__restrict from, uint8_t *__restrict to, int length, int bits,
                                           int shift) {
  const int mask = (1 << bits) - 1;
  for (int i = 0; i < length; ++i)
    to[i] = uint8_t(from[i] >> shift & mask);
  for (int field = 1; field < 8 / bits; ++field) {
    const uint8_t *__restrict next = from + int64_t{field} * length;
    for (int i = 0, left = field * bits; i < length; ++i)
      to[i] = uint8_t(to[i] | (next[i] >> shift & mask) << left);
  }
}

BITLOOM_ANY_VECTORS static void unpackFields(const uint8_t *__restrict from, uint8_t *__restrict to, int length,
                                             int bits, int shift) {
  const int mask = (1 << bits) - 1;
  for (int field = 0; field < 8 / bits; ++field) {
    uint8_t *__restrict next = to + int64_t{field} * length;
    for (int i = 0, right = field * bits; i < length; ++i)
      next[i] = uint8_t((from[i] >> right & mask) << shift);
  }
}

// `count` pieces of `bytes` bytes, which lie `fromStep` and `toStep` apart. Short ones are moves of a register.
static void copyPieces(const uint8_t *from, int64_t fromStep, uint8_t *to, int64_t toStep, int bytes, int count) {
  auto copy = [&](auto size) {
    for (int i = 0; i < count; ++i)
      std::memcpy(to + i * toStep, from + i * fromStep, size_t(size));
  };
  switch (bytes) {
  case 1:
    return copy(std::integral_constant<int, 1>());
  case 2:
    return copy(std::integral_constant<int, 2>());
  case 4:
    return copy(std::integral_constant<int, 4>());
  case 8:
    return copy(std::integral_constant<int, 8>());
  default:
    return copy(bytes);
  }
}

void Packer::pack(const Plan &plan, const uint8_t *values, uint8_t *bytes) const {
  const int64_t bytesPerBlock = row.bytesPerBlock();
  thread_local std::vector<uint8_t> ordered, packed;
  ordered.resize(size_t(row.block) * size_t(plan.blocks));
  packed.resize(ordered.size());
  for (const Plane &plane : plan.planes) {
    const uint8_t *from = ordered.data();
    if (plane.runs.size() == 1)
      from = values;
    else if (!plane.runs.empty())
      for (const Run &run : plane.runs)
        std::memcpy(ordered.data() + run.to, values + run.from, size_t(run.length));
    else
      gather(plane.source, values, ordered.data());

    uint8_t *to = plan.planes.size() == 1 ? bytes : packed.data();
    packFields(from, to, plane.bytes * plan.blocks, plane.bits, plane.shift);
    if (to != bytes)
      copyPieces(to, plane.bytes, bytes + plane.byteOffset, bytesPerBlock, plane.bytes, plan.blocks);
  }
}

void Packer::unpack(const Plan &plan, const uint8_t *bytes, uint8_t *values, bool isSigned) const {
  const int64_t bytesPerBlock = row.bytesPerBlock();
  const size_t count = size_t(row.block) * size_t(plan.blocks);
  thread_local std::vector<uint8_t> ordered, packed;
  ordered.resize(count);
  packed.resize(count);
  std::memset(values, 0, count);
  for (const Plane &plane : plan.planes) {
    const uint8_t *from = bytes;
    if (plan.planes.size() > 1) {
      copyPieces(bytes + plane.byteOffset, bytesPerBlock, packed.data(), plane.bytes, plane.bytes, plan.blocks);
      from = packed.data();
    }
    unpackFields(from, ordered.data(), plane.bytes * plan.blocks, plane.bits, plane.shift);
    if (plane.runs.empty())
      scatter(plane.source, ordered.data(), values);
    for (const Run &run : plane.runs)
      merge(ordered.data() + run.to, values + run.from, run.length);
  }
  if (isSigned) // (x ^ sign) - sign extends the sign of the low bits
    for (size_t i = 0, sign = size_t(1) << (row.bits - 1); i < count; ++i)
      values[i] = uint8_t((values[i] ^ uint8_t(sign)) - uint8_t(sign));
}

void Packer::packRow(const uint8_t *values, uint8_t *bytes, int64_t blocks) const {
  for (const Plan *plan : {&many, &one})
    for (; blocks >= plan->blocks; blocks -= plan->blocks) {
      pack(*plan, values, bytes);
      values += int64_t{plan->blocks} * row.block;
      bytes += plan->blocks * row.bytesPerBlock();
    }
}

void Packer::unpackRow(const uint8_t *bytes, uint8_t *values, int64_t blocks, bool isSigned) const {
  for (const Plan *plan : {&many, &one})
    for (; blocks >= plan->blocks; blocks -= plan->blocks) {
      unpack(*plan, bytes, values, isSigned);
      values += int64_t{plan->blocks} * row.block;
      bytes += plan->blocks * row.bytesPerBlock();
    }
}

// Each row's planes by themselves, and then where those of its block are.

void Packer::pack(const uint8_t *values, uint8_t *bytes, int64_t blocks) const {
  if (described.rows == 1)
    return packRow(values, bytes, blocks);
  thread_local std::vector<uint8_t> packed;
  packed.resize(size_t(blocks * row.bytesPerBlock()));
  for (int r = 0; r < described.rows; ++r) {
    packRow(values + r * blocks * row.block, packed.data(), blocks);
    for (const Plane &plane : one.planes)
      copyPieces(packed.data() + plane.byteOffset, row.bytesPerBlock(),
                 bytes + plane.byteOffset * described.rows + r * plane.bytes, described.bytesPerBlock(), plane.bytes,
                 int(blocks));
  }
}

void Packer::unpack(const uint8_t *bytes, uint8_t *values, int64_t blocks, bool isSigned) const {
  if (described.rows == 1)
    return unpackRow(bytes, values, blocks, isSigned);
  thread_local std::vector<uint8_t> packed;
  packed.resize(size_t(blocks * row.bytesPerBlock()));
  for (int r = 0; r < described.rows; ++r) {
    for (const Plane &plane : one.planes)
      copyPieces(bytes + plane.byteOffset * described.rows + r * plane.bytes, described.bytesPerBlock(),
                 packed.data() + plane.byteOffset, row.bytesPerBlock(), plane.bytes, int(blocks));
    unpackRow(packed.data(), values + r * blocks * row.block, blocks, isSigned);
  }
}

// --- The packers of Packing.h ---

static void checkSizes(const Packing &packing, size_t values, size_t bytes) {
  packing.check();
  if (packing.order == Packing::Order::Columns || packing.rows > 1)
    throw UserError("expected a packing of one row at a time, got " + packing.toString());
  int64_t expected = packing.bytesPerRow(static_cast<int64_t>(values));
  if (static_cast<int64_t>(bytes) != expected)
    throw UserError("expected " + std::to_string(expected) + " bytes for " + std::to_string(values) + " values of " +
                    packing.toString() + ", got " + std::to_string(bytes));
}

static void checkShape(const Packing &packing, size_t values, int64_t rows, int64_t columns) {
  packing.check();
  packing.bytesPerRow(columns);
  int64_t elements = 0;
  if (rows < 0 || __builtin_mul_overflow(rows, columns, &elements) || elements != static_cast<int64_t>(values))
    throw UserError("expected " + std::to_string(rows) + " x " + std::to_string(columns) + " values, got " +
                    std::to_string(values));
  if (rows % packing.rows)
    throw UserError("expected a multiple of " + std::to_string(packing.rows) + " rows, got " + std::to_string(rows));
}

// fn(first, last) over ranges of blocks, on threads where there are many.
template <class Fn> static void overBlocks(const Packing &packing, int64_t blocks, Fn fn) {
  parallelFor(blocks, std::max<int64_t>(1, 65536 / packing.block), fn);
}

template <typename T> static void checkValues(const Packing &packing, std::span<const T> values) {
  const T lowest = T(packing.lowest(std::is_signed_v<T>)), highest = T(packing.highest(std::is_signed_v<T>));
  if (packing.bits == 8)
    return;
  std::atomic<bool> fit{true};
  parallelFor(int64_t(values.size()), 65536, [&](int64_t begin, int64_t end) {
    T least = 0, most = 0;
    for (int64_t i = begin; i < end; ++i) {
      least = std::min(least, values[size_t(i)]);
      most = std::max(most, values[size_t(i)]);
    }
    if (least < lowest || most > highest)
      fit = false;
  });
  if (fit)
    return;
  size_t i = 0;
  while (values[i] >= lowest && values[i] <= highest)
    ++i;
  throw UserError("expected a value in [" + std::to_string(lowest) + ", " + std::to_string(highest) + "] for " +
                  std::to_string(packing.bits) + " bits, got " + std::to_string(values[i]) + " at index " +
                  std::to_string(i));
}

template <typename T>
static void packValues(const Packing &packing, std::span<const T> values, std::span<uint8_t> bytes) {
  checkSizes(packing, values.size(), bytes.size());
  checkValues(packing, values);
  const int64_t blocks = int64_t(values.size()) / packing.block;
  const Packer packer(packing, blocks);
  overBlocks(packing, blocks, [&](int64_t begin, int64_t end) {
    packer.pack(reinterpret_cast<const uint8_t *>(values.data()) + begin * packing.block,
                bytes.data() + begin * packing.bytesPerBlock(), end - begin);
  });
}

template <typename T>
static void unpackValues(const Packing &packing, std::span<const uint8_t> bytes, std::span<T> values) {
  checkSizes(packing, values.size(), bytes.size());
  const int64_t blocks = int64_t(values.size()) / packing.block;
  const Packer packer(packing, blocks);
  overBlocks(packing, blocks, [&](int64_t begin, int64_t end) {
    packer.unpack(bytes.data() + begin * packing.bytesPerBlock(),
                  reinterpret_cast<uint8_t *>(values.data()) + begin * packing.block, end - begin, std::is_signed_v<T>);
  });
}

// fn(packer, panel, blocks of a row) for each panel of packing.rows rows.
template <class Fn> static void overPanels(const Packing &packing, int64_t rows, int64_t columns, Fn fn) {
  const int64_t blocks = columns / packing.block;
  const Packer packer(packing, blocks);
  parallelFor(rows / packing.rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, packing.rows * columns)),
              [&](int64_t begin, int64_t end) {
                for (int64_t panel = begin; panel < end; ++panel)
                  fn(packer, panel, blocks);
              });
}

template <typename T>
static std::vector<uint8_t> packMatrix(const Packing &packing, std::span<const T> values, int64_t rows,
                                       int64_t columns) {
  checkShape(packing, values.size(), rows, columns);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows / packing.rows * packing.bytesPerRow(columns)));
  if (packing.order == Packing::Order::Columns) {
    checkValues(packing, values);
    packColumns(packing, reinterpret_cast<const uint8_t *>(values.data()), rows, columns, bytes.data());
  } else if (packing.rows > 1) {
    checkValues(packing, values);
    overPanels(packing, rows, columns, [&](const Packer &packer, int64_t panel, int64_t blocks) {
      packer.pack(reinterpret_cast<const uint8_t *>(values.data()) + panel * packing.rows * columns,
                  bytes.data() + panel * blocks * packing.bytesPerBlock(), blocks);
    });
  } else {
    packValues(packing, values, std::span(bytes));
  }
  return bytes;
}

template <typename T>
static void unpackMatrix(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                         std::span<T> values) {
  checkShape(packing, values.size(), rows, columns);
  if (packing.order != Packing::Order::Columns && packing.rows == 1)
    return unpackValues(packing, bytes, values);
  int64_t expected = rows / packing.rows * packing.bytesPerRow(columns);
  if (static_cast<int64_t>(bytes.size()) != expected)
    throw UserError("expected " + std::to_string(expected) + " bytes for " + std::to_string(values.size()) +
                    " values of " + packing.toString() + ", got " + std::to_string(bytes.size()));
  auto to = reinterpret_cast<uint8_t *>(values.data());
  if (packing.order == Packing::Order::Columns)
    return unpackColumns(packing, bytes.data(), rows, columns, to, std::is_signed_v<T>);
  overPanels(packing, rows, columns, [&](const Packer &packer, int64_t panel, int64_t blocks) {
    packer.unpack(bytes.data() + panel * blocks * packing.bytesPerBlock(), to + panel * packing.rows * columns, blocks,
                  std::is_signed_v<T>);
  });
}

void pack(const Packing &packing, std::span<const int8_t> values, std::span<uint8_t> bytes) {
  packValues(packing, values, bytes);
}
void pack(const Packing &packing, std::span<const uint8_t> values, std::span<uint8_t> bytes) {
  packValues(packing, values, bytes);
}
void unpack(const Packing &packing, std::span<const uint8_t> bytes, std::span<int8_t> values) {
  unpackValues(packing, bytes, values);
}
void unpack(const Packing &packing, std::span<const uint8_t> bytes, std::span<uint8_t> values) {
  unpackValues(packing, bytes, values);
}

std::vector<uint8_t> packRows(const Packing &packing, std::span<const int8_t> values, int64_t rows, int64_t columns) {
  return packMatrix(packing, values, rows, columns);
}
std::vector<uint8_t> packRows(const Packing &packing, std::span<const uint8_t> values, int64_t rows, int64_t columns) {
  return packMatrix(packing, values, rows, columns);
}
void unpackRows(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                std::span<int8_t> values) {
  unpackMatrix(packing, bytes, rows, columns, values);
}
void unpackRows(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                std::span<uint8_t> values) {
  unpackMatrix(packing, bytes, rows, columns, values);
}

} // namespace bitloom
