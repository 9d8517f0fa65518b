// Layers that GPTQ or AWQ quantised, in files of tensors.
//
// A layer of K columns in and N out, of b bits, is the tensors <layer>.qweight, .qzeros and .scales of floats (groups,
// N), and perhaps .g_idx, the group of each column, and .bias. Its words are i32, their fields from the low end:
//
//          qweight             qzeros               zero point
//   gptq   (K · b / 32, N)     (groups, N · b / 32)  the field + 1
//   gptq_v2  the same                                the field
//   awq    (K, N / 8), b = 4   (groups, N / 8)       the field; of a word's columns the fields are 0 2 4 6 1 3 5 7
//
// A field of gptq may begin in one word and end in the next: words are a stream of bits.
#pragma once

#include "bitloom/lib/packing/PackedFile.h"
#include "bitloom/tools/WeightFiles.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom::tools {

enum class CheckpointKind { Gptq, GptqV2, Awq };

// Of gptq, gptq_v2 or awq. UserError, which lists them, for another name.
CheckpointKind checkpointKindNamed(std::string_view name);

// One layer, of which everything is checked but the order of its groups.
struct CheckpointLayer {
  std::string name; // with .weight at its end
  CheckpointKind kind = CheckpointKind::Gptq;
  int64_t rows = 0, columns = 0; // N and K
  WeightFormat format;           // planar, asymmetric
  const WeightArray *words = nullptr, *zeros = nullptr, *scales = nullptr;
  const WeightArray *groups = nullptr; // or none
};

// The layers among arrays, whose scales are to be stored as `scales`; those that belong to none are added to `others`.
// UserError, which names the layer: a field is missing, unknown, or not of the type and shape that it must have.
std::vector<CheckpointLayer> layersOf(const std::vector<const WeightArray *> &arrays, CheckpointKind kind, DType scales,
                                      std::vector<const WeightArray *> &others);

// Appends the layer with the same numbers: its fields are packed anew. UserError, which names the layer: its columns
// are in another order than their groups, or a scale is not finite or not one that its type holds.
void addLayer(const CheckpointLayer &layer, PackedFileWriter &writer);

} // namespace bitloom::tools
