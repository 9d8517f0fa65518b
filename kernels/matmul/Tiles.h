// The tiles of a product: the defaults of block_m, block_n and block_k, as expressions of its sizes
// (lib/support/Expression.h).
#pragma once

#include "bitloom/dsl/Kernel.h"

#include <concepts>
#include <string>

namespace bitloom::kernels::tiles {

// What an expression of a condition is worth, 1 or 0, makes it a factor.
inline std::string both(const std::string &one, const std::string &other) { return "(" + one + ") * (" + other + ")"; }
inline std::string either(const std::string &one, const std::string &other) {
  return "max(" + one + ", " + other + ")";
}
// At least 16, and no more than the extent's next power of two.
inline std::string ofExtent(const std::string &name, const std::string &wanted) {
  return "max(16, min(next_pow2(" + name + "), " + wanted + "))";
}

// Tiles of 128 rows and so many columns, and the rounds in which the multiprocessors take them.
inline std::string count(int columns) { return "ceil_div(m, 128) * ceil_div(n, " + std::to_string(columns) + ")"; }
inline std::string waves(int columns) { return "ceil_div(" + count(columns) + ", max(multiprocessors, 1))"; }

inline const std::string onCpu = "compute_capability == 0";

// Rows of both operands, as they lie in memory, are multiples of 16 elements.
inline const std::string wholeRows = both("(m * a_transposed + k * (1 - a_transposed)) % 16 == 0",
                                          "(k * b_transposed + n * (1 - b_transposed)) % 16 == 0");

// On a CPU a tile of a and one of out are in the second-level cache, and large ones are copied there less often.
inline std::string rows() { return "max(8, min(next_pow2(m), 128 + 128 * (" + onCpu + ")))"; }

// 256 columns for 128, where there are more of these than multiprocessors: if that makes one wave of two, or two of
// four. With operands that do not both lie along k, also if it costs no more waves: what is saved in reads is power,
// which limits long launches.
inline std::string areWide() {
  const std::string halvesWaves =
      both(count(256) + " <= 2 * multiprocessors", "2 * " + waves(256) + " <= " + waves(128));
  // As they lie, or a by a copy (Matmul::realigned). Should there be none, registers suffice for the bare product
  // alone.
  const std::string copiedFirst = "(m * n * k >= 536870912) * (n % 8 == 0) * (k * b_transposed % 8 == 0) * "
                                  "(activation + biased + added + scaled_a + scaled_b == 0)";
  const std::string copiedAcross =
      both(either("m * a_transposed % 8 == 0", copiedFirst), "n * (1 - b_transposed) % 8 == 0");
  const std::string savesReads = both("compute_capability == 90", either("a_transposed", "1 - b_transposed")) + " * " +
                                 both(copiedAcross, "32 * " + waves(256) + " <= 17 * " + waves(128));
  return both(count(128) + " > multiprocessors", either(halvesWaves, savesReads));
}

// On a CPU, where each of 32 processors has a tile of 256 by 512.
inline const std::string arePlenty = both(onCpu, "ceil_div(m, 256) * ceil_div(n, 512) >= 32");

// A sum in i32 and its number in f32 take registers both: what comes after them has fewer.
template <class T, class Out> std::string columns() {
  const bool isConverted = std::is_integral_v<T> && !std::same_as<Out, i32>;
  const std::string doubled =
      isConverted ? "(m > 32) * " + either(onCpu, both("added == 0", "activation < 2")) : "(m > 32)";
  const std::string wide = sizeof(T) == 2 ? areWide() : onCpu;
  const std::string widest = sizeof(T) == 2 || isConverted ? "" : " + 256 * " + arePlenty;
  return ofExtent("n", "64 + 64 * " + doubled + " + 128 * " + both("m > 128", wide) + widest);
}

// Bytes in rows of no multiple of 16 come one by one, through registers: of them less at a time.
template <class T> std::string depth() {
  const std::string more = isStorageFloat(dtypeOf<T>) ? "(64 + 128 * (1 - fast_sums)) * " + wholeRows
                           : sizeof(T) == 1           ? "64 * " + wholeRows
                                                      : "64 * (" + onCpu + ")";
  return ofExtent("k", "64 + " + more);
}

} // namespace bitloom::kernels::tiles
