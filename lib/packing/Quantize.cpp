#include "bitloom/lib/packing/Quantize.h"

#include "bitloom/lib/packing/ColumnPacker.h"
#include "bitloom/lib/packing/Packer.h"
#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

namespace bitloom {

void WeightFormat::check() const {
  packing.check();
  if (group < 1 || group > INT32_MAX)
    throw UserError("expected groups of 1 value or more, got " + std::to_string(group));
  if (scales != DType::f32 && scales != DType::f16 && scales != DType::bf16)
    throw UserError("expected scales of f32, f16 or bf16, got " + std::string(nameOf(scales)));
}

int64_t WeightFormat::storedColumns(int64_t columns) const {
  auto roundUp = [](int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; };
  // Of a last group shorter than the others, the fields that it lacks are stored too: every group looks the same.
  const int64_t whole = group < columns ? roundUp(columns, group) : columns;
  return roundUp(whole, packing.block);
}

//===- Floats, by vectors -----------------------------------------------------------------------------------------===//

// Chosen when the program starts. Not with fused products, so that all processors find the same fields.
#if defined(__x86_64__)
#define BITLOOM_ANY_VECTORS [[gnu::target_clones("avx2", "default")]]
#else
#define BITLOOM_ANY_VECTORS
#endif

static void widen(const float *from, float *to, int64_t count) { std::copy(from, from + count, to); }

BITLOOM_ANY_VECTORS static void widen(const bf16 *from, float *to, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = std::bit_cast<float>(uint32_t(from[i].bits) << 16);
}

BITLOOM_ANY_VECTORS static void widen(const f16 *from, float *to, int64_t count) {
  constexpr uint32_t rebias = (127 - 15) << 23, exponent = 31 << 23;
  const float smallest = std::bit_cast<float>(rebias + (1u << 23)); // 2^-14
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t half = from[i].bits, magnitude = (half & 0x7fff) << 13, normal = magnitude + rebias;
    const float subnormal = std::bit_cast<float>(normal + (1u << 23)) - smallest;
    uint32_t bits = magnitude & exponent ? normal : std::bit_cast<uint32_t>(subnormal);
    bits = (magnitude & exponent) == exponent ? bits + rebias : bits; // infinities and NaN
    to[i] = std::bit_cast<float>(bits | (half & 0x8000) << 16);
  }
}

namespace {
struct Range {
  float least, most;
  bool finite;
};
} // namespace

BITLOOM_ANY_VECTORS static Range rangeOf(const float *values, int64_t count) {
  constexpr int lanes = 16; // independent ones, so that the loop is a vector's
  float least[lanes] = {}, most[lanes] = {};
  uint32_t special[lanes] = {};
  auto take = [&](int lane, float value) {
    least[lane] = value < least[lane] ? value : least[lane];
    most[lane] = value > most[lane] ? value : most[lane];
    special[lane] |= (std::bit_cast<uint32_t>(value) & 0x7f800000) + 0x00800000; // bit 31: exponent all ones
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane)
      take(lane, values[i + lane]);
  for (; i < count; ++i)
    take(0, values[i]);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) {
      least[lane] = std::min(least[lane], least[lane + half]);
      most[lane] = std::max(most[lane], most[lane + half]);
      special[lane] |= special[lane + half];
    }
  return {least[0], most[0], !(special[0] >> 31)};
}

// The nearest whole number to value · inverse + offset, ties to even, clamped.
BITLOOM_ANY_VECTORS static void roundTo(const float *values, int64_t count, float inverse, float offset, float lowest,
                                        float highest, uint8_t *fields) {
  constexpr float magic = 12582912; // 1.5 · 2^23: the sum's low bits are the rounded number
  for (int64_t i = 0; i < count; ++i) {
    float scaled = values[i] * inverse;
    scaled = scaled + offset;
    scaled = scaled < lowest ? lowest : scaled;
    scaled = scaled > highest ? highest : scaled;
    scaled = scaled + magic;
    fields[i] = uint8_t(std::bit_cast<uint32_t>(scaled));
  }
}

//===- Groups -----------------------------------------------------------------------------------------------------===//

// Stores the number and gives what the type holds of it.
static float store(DType dtype, void *to, int64_t index, float value) {
  if (dtype == DType::f32)
    return static_cast<float *>(to)[index] = value;
  if (dtype == DType::f16)
    return static_cast<f16 *>(to)[index] = f16(value);
  return static_cast<bf16 *>(to)[index] = bf16(value);
}

namespace {
// What all groups of a call share.
struct Quantizer {
  const WeightFormat &format;
  const float lowest = float(format.packing.lowest(!format.asymmetric)),
              highest = float(format.packing.highest(!format.asymmetric));

  float scaleOf(const Range &range, const float *values, int64_t count) const {
    if (!format.asymmetric)
      return (range.most > -range.least ? range.most : range.least) / lowest;
    if (format.packing.bits > 1)
      return (range.most - range.least) / highest; // the range holds zero: it starts there
    double sum = 0;
    for (int64_t i = 0; i < count; ++i)
      sum += std::abs(values[i]);
    return count ? float(2 * sum / double(count)) : 0;
  }

  // Throws the bare reason.
  void group(const float *values, int64_t count, uint8_t *fields, void *scales, void *zeros, int64_t index) const {
    const Range range = rangeOf(values, count);
    if (!range.finite)
      throw UserError("expected finite values, got an infinity or a NaN");
    const float wanted = scaleOf(range, values, count), scale = store(format.scales, scales, index, wanted);
    if (!std::isfinite(scale))
      throw UserError("expected scales that " + std::string(nameOf(format.scales)) + " holds, got " +
                      std::to_string(wanted));
    const float inverse = scale != 0 && std::isfinite(1 / scale) ? 1 / scale : 0;
    float zero = 0;
    if (format.asymmetric)
      zero = format.packing.bits == 1 ? 0.5f : std::clamp(std::nearbyint(-range.least * inverse), lowest, highest);
    if (format.asymmetric)
      store(format.scales, zeros, index, zero);
    roundTo(values, count, inverse, zero, lowest, highest, fields);
  }
};
} // namespace

template <class T>
static void quantizeRows(const WeightFormat &format, const T *weights, int64_t rows, int64_t columns, uint8_t *weight,
                         void *scales, void *zeros, const std::function<void(int64_t)> &progress) {
  const int64_t columnsStored = format.storedColumns(columns), blocks = columnsStored / format.packing.block,
                panelBytes = format.packing.bytesPerRow(columnsStored), groups = format.groups(columns),
                together = format.packing.rows;
  const bool byColumns = format.packing.order == Packing::Order::Columns;
  const std::optional<ColumnPacker> columnPacker =
      byColumns ? std::optional<ColumnPacker>(format.packing) : std::nullopt;
  const std::optional<Packer> rowPacker =
      byColumns ? std::nullopt : std::optional<Packer>(std::in_place, format.packing, blocks);
  const Quantizer quantizer{format};
  auto quantizeRow = [&](int64_t row, float *values, uint8_t *fields) {
    try {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * format.group, count = std::min(format.group, columns - first);
        widen(weights + row * columns + first, values, count);
        quantizer.group(values, count, fields + first, scales, zeros, byColumns ? g * rows + row : row * groups + g);
      }
    } catch (const UserError &error) {
      throw UserError(error.message() + " in row " + std::to_string(row));
    }
  };
  auto work = [&](int64_t begin, int64_t end) {
    thread_local std::vector<float> values;
    thread_local std::vector<uint8_t> fields;
    values.resize(size_t(std::min(format.group, columns)));
    fields.assign(size_t(columnsStored * together), 0);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * together, count = std::min(together, rows - first);
      for (int64_t i = 0; i < count; ++i)
        quantizeRow(first + i, values.data(), fields.data() + i * columnsStored);
      std::fill(fields.begin() + count * columnsStored, fields.end(), uint8_t{0});
      if (!byColumns) {
        rowPacker->pack(fields.data(), weight + panel * panelBytes, blocks);
        continue;
      }
      columnPacker->pack(fields.data(), columnsStored, columnsStored, weight + panel * panelBytes);
    }
  };
  const int64_t panels = (rows + together - 1) / together, values = std::max<int64_t>(1, columns * together);
  const int64_t grain = std::max<int64_t>(1, 65536 / values);
  const int64_t turn = progress ? std::max<int64_t>(grain * 16, (int64_t{32} << 20) / values) : panels;
  for (int64_t done = 0; done < panels;) {
    const int64_t next = std::min(panels, done + std::max<int64_t>(1, turn));
    parallelFor(next - done, grain, [&](int64_t begin, int64_t end) { work(done + begin, done + end); });
    done = next;
    if (progress)
      progress(std::min(rows, done * together));
  }
}

void quantize(const WeightFormat &format, const void *weights, DType dtype, int64_t rows, int64_t columns,
              uint8_t *weight, void *scales, void *zeros, const std::function<void(int64_t)> &progress) {
  format.check();
  auto run = [&](auto *typed) { quantizeRows(format, typed, rows, columns, weight, scales, zeros, progress); };
  if (dtype == DType::f32)
    run(static_cast<const float *>(weights));
  else if (dtype == DType::f16)
    run(static_cast<const f16 *>(weights));
  else if (dtype == DType::bf16)
    run(static_cast<const bf16 *>(weights));
  else
    throw UserError("expected weights of f32, f16 or bf16, got " + std::string(nameOf(dtype)));
}

} // namespace bitloom
