#include "bitloom/tools/Checkpoint.h"

#include "bitloom/lib/packing/Packer.h"
#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Suggest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

namespace bitloom::tools {

CheckpointKind checkpointKindNamed(std::string_view name) {
  const std::vector<std::string> names = {"gptq", "gptq_v2", "awq"};
  auto found = std::ranges::find(names, name);
  if (found == names.end())
    throw UserError("unknown checkpoint '" + std::string(name) + "'" + expectedOneOf(name, names));
  return CheckpointKind(found - names.begin());
}

//===- Finding layers ---------------------------------------------------------------------------------------------===//

namespace {

// The tensors of one layer, by the last part of their names.
struct Fields {
  std::string layer;
  std::map<std::string, const WeightArray *, std::less<>> all;

  [[noreturn]] void fail(const std::string &what) const { throw UserError("layer " + layer + ": " + what); }

  // Null where there is none and it may lack.
  const WeightArray *find(std::string_view field) const {
    auto found = all.find(field);
    return found == all.end() ? nullptr : found->second;
  }
  const WeightArray &matrix(std::string_view field, std::initializer_list<DType> dtypes) const {
    const WeightArray *array = find(field);
    if (!array)
      fail("expected the fields qweight, qzeros and scales, got no " + std::string(field));
    if (!array->dtype || std::ranges::find(dtypes, *array->dtype) == dtypes.end() || array->extents.size() != 2)
      fail("field " + std::string(field) + ": expected a matrix of " +
           (dtypes.size() > 1 ? "F16, BF16 or F32" : "I32") + ", got " + array->dtypeName + " of " +
           std::to_string(array->extents.size()) + " dimensions");
    return *array;
  }
};

std::string shapeOf(int64_t rows, int64_t columns) { return std::to_string(rows) + " x " + std::to_string(columns); }

CheckpointLayer layerOf(const Fields &fields, CheckpointKind kind, DType scalesDType) {
  const bool awq = kind == CheckpointKind::Awq;
  for (const auto &[field, array] : fields.all)
    if (field != "qweight" && field != "qzeros" && field != "scales" && field != "bias" && (field != "g_idx" || awq))
      fields.fail("unknown field " + field + ": expected qweight, qzeros, scales" + (awq ? "" : ", g_idx") +
                  " and bias");
  const WeightArray &words = fields.matrix("qweight", {DType::i32}), &zeros = fields.matrix("qzeros", {DType::i32}),
                    &scales = fields.matrix("scales", {DType::f16, DType::bf16, DType::f32});

  CheckpointLayer layer;
  layer.name = fields.layer + ".weight";
  layer.kind = kind;
  layer.words = &words;
  layer.zeros = &zeros;
  layer.scales = &scales;
  layer.rows = scales.extents[1];
  const int64_t groups = scales.extents[0], zeroBits = zeros.extents[1] * 32;
  // The width is nowhere written: it is that of a zero point.
  const int64_t bits = layer.rows ? zeroBits / layer.rows : 0;
  if (bits < 1 || bits > 8 || bits * layer.rows != zeroBits || (awq && bits != 4))
    fields.fail("field qzeros: expected " + std::string(awq ? "4 bits" : "1 to 8 bits") + " for each of " +
                std::to_string(layer.rows) + " columns of scales, got " + std::to_string(zeros.extents[1]) + " words");
  layer.columns = awq ? words.extents[0] : words.extents[0] * 32 / bits;
  const int64_t wordRows = layer.columns * bits / 32;
  if (awq ? words.extents[1] * 8 != layer.rows : wordRows != words.extents[0] || words.extents[1] != layer.rows)
    fields.fail("field qweight: expected " +
                (awq ? shapeOf(layer.columns, layer.rows / 8)
                     : "words of " + std::to_string(bits) + " bits for " + std::to_string(layer.rows) + " columns") +
                ", got " + shapeOf(words.extents[0], words.extents[1]));
  if (zeros.extents[0] != groups)
    fields.fail("field qzeros: expected " + std::to_string(groups) + " groups as scales has, got " +
                std::to_string(zeros.extents[0]));
  if (!groups || layer.columns % groups)
    fields.fail("field scales: expected groups of one size for " + std::to_string(layer.columns) + " columns, got " +
                std::to_string(groups));
  layer.groups = fields.find("g_idx");
  if (layer.groups && (layer.groups->dtype != DType::i32 || layer.groups->extents.size() != 1 ||
                       layer.groups->extents[0] != layer.columns))
    fields.fail("field g_idx: expected " + std::to_string(layer.columns) + " numbers of I32, got " +
                layer.groups->dtypeName + " of " + std::to_string(layer.groups->bytes) + " bytes");

  const int64_t group = layer.columns / groups;
  layer.format = {.packing = {.bits = int(bits),
                              .order = Packing::Order::Planar,
                              .block = int(std::clamp<int64_t>(group & -group, 8, 65536))},
                  .group = group,
                  .asymmetric = true,
                  .scales = scalesDType};
  return layer;
}

} // namespace

std::vector<CheckpointLayer> layersOf(const std::vector<const WeightArray *> &arrays, CheckpointKind kind, DType scales,
                                      std::vector<const WeightArray *> &others) {
  constexpr std::string_view mark = ".qweight";
  std::map<std::string, Fields, std::less<>> found;
  for (const WeightArray *array : arrays)
    if (array->name.ends_with(mark)) {
      std::string layer = array->name.substr(0, array->name.size() - mark.size());
      found[layer].layer = layer;
    }
  for (const WeightArray *array : arrays) {
    const size_t dot = std::min(array->name.rfind('.'), array->name.size());
    auto layer = found.find(std::string_view(array->name).substr(0, dot));
    if (layer == found.end()) {
      others.push_back(array);
      continue;
    }
    const std::string field = array->name.substr(dot + 1);
    if (!layer->second.all.emplace(field, array).second)
      layer->second.fail("expected one field " + field + ", got it twice");
    if (field == "bias")
      others.push_back(array);
  }
  std::vector<CheckpointLayer> layers;
  for (const auto &[name, fields] : found)
    layers.push_back(layerOf(fields, kind, scales));
  return layers;
}

//===- Their numbers ----------------------------------------------------------------------------------------------===//

template <class T> static T elementOf(const WeightArray &array, int64_t index) {
  T value; // not necessarily aligned
  std::memcpy(&value, static_cast<const char *>(array.data) + index * int64_t(sizeof(T)), sizeof(T));
  return value;
}

namespace {

// A matrix of fields in words, which follow each other down the columns or along the rows.
struct WordFields {
  const WeightArray &words;
  int bits;
  bool down, shuffled; // shuffled: as awq has it

  uint8_t at(int64_t i, int64_t j) const {
    constexpr int placeOf[8] = {0, 4, 1, 5, 2, 6, 3, 7}; // the inverse of 0 2 4 6 1 3 5 7
    const int64_t field = down ? i : shuffled ? (j & ~int64_t{7}) + placeOf[j & 7] : j, bit = field * bits;
    const int shift = int(bit % 32);
    uint32_t value = word(bit / 32, down ? j : i) >> shift;
    if (shift + bits > 32)
      value |= word(bit / 32 + 1, down ? j : i) << (32 - shift);
    return uint8_t(value & ((1u << bits) - 1));
  }

private:
  uint32_t word(int64_t along, int64_t other) const {
    return elementOf<uint32_t>(words, down ? along * words.extents[1] + other : other * words.extents[1] + along);
  }
};

float floatOf(const WeightArray &array, int64_t index) {
  if (*array.dtype == DType::f32)
    return elementOf<float>(array, index);
  return *array.dtype == DType::f16 ? float(elementOf<f16>(array, index)) : float(elementOf<bf16>(array, index));
}

// Stores the number and gives what the type holds of it.
float store(DType dtype, std::vector<std::byte> &to, int64_t index, float value) {
  auto put = [&](auto typed) {
    std::memcpy(to.data() + index * int64_t(sizeof typed), &typed, sizeof typed);
    return float(typed);
  };
  return dtype == DType::f32 ? put(value) : dtype == DType::f16 ? put(f16(value)) : put(bf16(value));
}

} // namespace

void addLayer(const CheckpointLayer &layer, PackedFileWriter &writer) {
  const WeightFormat &format = layer.format;
  const int64_t groups = format.groups(layer.columns), stored = format.storedColumns(layer.columns);
  const int bits = format.packing.bits;
  const bool awq = layer.kind == CheckpointKind::Awq;
  auto fail = [&](const std::string &what) { throw UserError("tensor " + layer.name + ": " + what); };
  for (int64_t c = 0; layer.groups && c < layer.columns; ++c)
    if (const int32_t group = elementOf<int32_t>(*layer.groups, c); group != c / format.group)
      fail("g_idx: expected columns in the order of their groups of " + std::to_string(format.group) + ", got column " +
           std::to_string(c) + " in group " + std::to_string(group) + " (desc_act)");

  const WordFields fields{*layer.words, bits, !awq, awq}, points{*layer.zeros, bits, false, awq};
  std::vector<std::byte> scales(size_t(format.scaleBytes(layer.rows, layer.columns))), zeros(scales.size());
  const int above = layer.kind == CheckpointKind::Gptq; // what is stored is less by it
  for (int64_t row = 0; row < layer.rows; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = floatOf(*layer.scales, g * layer.rows + row);
      if (!std::isfinite(store(format.scales, scales, row * groups + g, scale)))
        fail("expected finite scales that " + std::string(nameOf(format.scales)) + " holds, got " +
             std::to_string(scale) + " in row " + std::to_string(row));
      store(format.scales, zeros, row * groups + g, float((points.at(g, row) + above) & ((1 << bits) - 1)));
    }

  std::vector<std::byte> weight(size_t(format.weightBytes(layer.rows, layer.columns)));
  const int64_t blocks = stored / format.packing.block, rowBytes = format.packing.bytesPerRow(stored);
  const Packer packer(format.packing, blocks);
  constexpr int64_t together = 64; // rows: side by side in gptq's words
  parallelFor(layer.rows, together, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> values(size_t(together * stored));
    for (int64_t first = begin; first < end; first += together) {
      const int64_t count = std::min(together, end - first);
      for (int64_t c = 0; c < layer.columns; ++c)
        for (int64_t r = 0; r < count; ++r)
          values[size_t(r * stored + c)] = fields.at(c, first + r);
      for (int64_t r = 0; r < count; ++r)
        packer.pack(values.data() + r * stored, reinterpret_cast<uint8_t *>(weight.data()) + (first + r) * rowBytes,
                    blocks);
    }
  });
  writer.add({layer.name, layer.rows, layer.columns, format, weight, scales, zeros});
}

} // namespace bitloom::tools
