/* low_bit_matmul with weights of 4 bits, packed by hand as lib/packing/Packing.h says, against plain C. Scales are
 * powers of two, so that every sum is exact. M, LANES, DEPTH, ROWS and BIASED are what the kernel was built for. */
#include "low_bit_matmul_bf16.h"

#include <stdio.h>
#include <stdlib.h>

enum { n = 199, group = 32, groups = 3, k = group * groups };
enum { panels = (n + ROWS - 1) / ROWS };

static uint8_t weight[panels * ROWS * k / 2], x[M * k];
static uint16_t scales[groups * n];
static float x_scales[M], out[M * n];

static int weight_at(int row, int column) { return (row * 7 + column * 5 + row * column) % 16 - 8; }

static int x_at(int row, int column) { return (row * 37 + column * 101) % 255 - 127; }

static void pack(void) {
  for (int row = 0; row < n; row++)
    for (int column = 0; column < k; column++) {
      int in_panel = row % ROWS, unit = in_panel / (2 * LANES), value = in_panel % (2 * LANES) / LANES;
      int vector = column / DEPTH * (ROWS / (2 * LANES)) + unit;
      int at = (row / ROWS * (ROWS * k / 2)) + (vector * LANES + row % LANES) * DEPTH + column % DEPTH;
      int stored = (weight_at(row, column) & 15) ^ (BIASED && value == 0 ? 8 : 0);
      weight[at] |= (uint8_t)(stored << 4 * value);
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
