/* low_bit_matmul with weights of 4, 6 or 7 bits, packed by hand as lib/packing/Packing.h says, against plain C. Scales
 * are powers of two, so that every sum is exact. BITS, M, LANES, DEPTH, ROWS and BIASED are what the kernel was built
 * for. */
#include "low_bit_matmul_bf16.h"

#include <stdio.h>
#include <stdlib.h>

enum { n = 199, group = 32, groups = 3, k = group * groups };
enum { panels = (n + ROWS - 1) / ROWS };
/* Of a unit. What a byte of one has besides a value of 6 or 7 bits is of one value more. */
enum { spare = 8 - BITS, bytes = BITS / spare, values = bytes + 1 };

static uint8_t weight[panels * ROWS * k * BITS / 8], x[M * k];
static uint16_t scales[groups * n];
static float x_scales[M], out[M * n];

static int weight_at(int row, int column) {
  return (row * 7 + column * 5 + row * column) % (1 << BITS) - (1 << (BITS - 1));
}

static int x_at(int row, int column) { return (row * 37 + column * 101) % 255 - 127; }

static void put(int row, int column, int byte, int shift, int field) {
  int unit = row % ROWS / (values * LANES), vector = (column / DEPTH * (ROWS / (values * LANES)) + unit) * bytes + byte;
  int at = (row / ROWS * (ROWS * k * BITS / 8)) + (vector * LANES + row % LANES) * DEPTH + column % DEPTH;
  weight[at] |= (uint8_t)(field << shift);
}

static void pack(void) {
  for (int row = 0; row < n; row++)
    for (int column = 0; column < k; column++) {
      int value = row % (values * LANES) / LANES, isLow = value == (BITS == 4 ? 0 : bytes);
      int stored = (weight_at(row, column) & ((1 << BITS) - 1)) ^ (BIASED && isLow ? 1 << (BITS - 1) : 0);
      if (BITS == 4)
        put(row, column, 0, 4 * value, stored);
      else if (value < bytes)
        put(row, column, value, spare, stored);
      else
        for (int byte = 0; byte < bytes; byte++)
          put(row, column, byte, 0, stored >> byte * spare & ((1 << spare) - 1));
    }
  for (int row = 0; row < M; row++)
    for (int column = 0; column < k; column++)
      x[row * k + column] = (uint8_t)x_at(row, column);
}

int main(void) {
  pack();
  for (int row = 0; row < M; row++)
    x_scales[row] = 1;
  for (int i = 0; i < groups * n; i++)
    scales[i] = (uint16_t)((127 - i % 3) << 7); /* 2^-(i % 3) as bfloat16 */
  if (low_bit_matmul_bf16_contiguous(x, weight, scales, x_scales, NULL, NULL, NULL, NULL, NULL, out, 0, 0, M, groups, n,
                                     2) != 0)
    return 1;
  for (int row = 0; row < M; row++)
    for (int column = 0; column < n; column++) {
      float expected = 0;
      for (int g = 0; g < groups; g++) {
        int sum = 0;
        for (int i = g * group; i < (g + 1) * group; i++)
          sum += x_at(row, i) * weight_at(column, i);
        expected += (float)sum / (float)(1 << (g * n + column) % 3);
      }
      if (out[row * n + column] != expected) {
        printf("row %d, column %d: expected %g, got %g\n", row, column, expected, out[row * n + column]);
        return 2;
      }
    }
  puts(low_bit_matmul_bf16_target());
  return 0;
}
