// Matrices of floats as low-bit weights: fields, and a scale, perhaps a zero point, for each group of them.
#pragma once

#include "bitloom/lib/dtype/DType.h"
#include "bitloom/lib/packing/Packing.h"

#include <cstddef>
#include <functional>

namespace bitloom {

// How a matrix of rows × columns is stored. Groups lie along rows; fields past the last column are zero. In the order
// columns, whose panels are filled up with rows of zeros, scales and zeros lie group by group, [groups, rows]: so a
// product reads those of neighbouring rows together. Otherwise row by row.
struct WeightFormat {
  Packing packing;
  int64_t group = 128;       // values that share a scale, 1 to 2^31 - 1; `columns` or more: a scale a row
  bool asymmetric = false;   // value = scale · (q - zero), q unsigned; else scale · q, q signed
  DType scales = DType::f32; // f32, f16 or bf16: of scales and zeros

  void check() const;                                                             // UserError
  int64_t groups(int64_t columns) const { return (columns + group - 1) / group; } // of a row
  int64_t storedColumns(int64_t columns) const;                                   // whole groups of whole blocks
  int64_t weightBytes(int64_t rows, int64_t columns) const {
    return (rows + packing.rows - 1) / packing.rows * packing.bytesPerRow(storedColumns(columns));
  }
  int64_t scaleBytes(int64_t rows, int64_t columns) const { return rows * groups(columns) * bytesOf(scales); }
  int64_t zeroBytes(int64_t rows, int64_t columns) const { return asymmetric ? scaleBytes(rows, columns) : 0; }
  bool operator==(const WeightFormat &) const = default;
};

// The nearest fields to each value, rounded to even:
//
//   symmetric   the value furthest from zero becomes the lowest field, as in ggml's q4_0: scale = extreme / -2^(bits-1)
//   asymmetric  scale = (max - min) / (2^bits - 1) of the range made to hold zero; the zero point is a whole number
//   asymmetric, 1 bit    ± the mean of |value|: zero = 1/2 (Rastegari et al., "XNOR-Net", 2016)
//
// weights: rows × columns of f32, f16 or bf16, row-major. weight, scales and zeros have the bytes that `format` says;
// zeros may be null where there are none. Spread over the thread pool. `progress`, when given, is called on the
// caller's thread now and then with the rows done so far. UserError: another dtype, a value that is not finite, or a
// scale that its type cannot hold.
void quantize(const WeightFormat &format, const void *weights, DType dtype, int64_t rows, int64_t columns,
              uint8_t *weight, void *scales, void *zeros, const std::function<void(int64_t)> &progress = {});

} // namespace bitloom
