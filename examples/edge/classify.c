/* The last layer of a classifier: 4-bit weights times a vector, then softmax; compared with plain C. */
#include "gemv_w4.h"
#include "softmax_f32.h"

#include <math.h>
#include <stdio.h>

enum { classes = 199, features = 96, group = 32, groups = features / group };

static float x[features], scales[classes * groups], logits[classes], shares[classes];
static uint8_t weight[classes * features / 2];

static int weight_at(int row, int column) {
  return (row * 7 + column * 5) % 16 - 8;
}

/* Planar: of a block of 32 values the low nibbles are the first 16, the high ones the others. */
static void pack(void) {
  for (int row = 0; row < classes; row++)
    for (int g = 0; g < groups; g++)
      for (int i = 0; i < group / 2; i++) {
        int low = weight_at(row, g * group + i), high = weight_at(row, g * group + group / 2 + i);
        weight[(row * groups + g) * group / 2 + i] = (uint8_t)((low & 15) | (high & 15) << 4);
      }
}

int main(void) {
  double sum = 0, worst = 0;
  for (int i = 0; i < features; i++)
    x[i] = (float)(i % 11) / 11 - 0.5f;
  for (int i = 0; i < classes * groups; i++)
    scales[i] = 0.01f + 0.001f * (float)(i % 7);
  pack();

  /* One input, without zero points, on two threads; the kernels are told the extents and refuse those they are not for. */
  if (gemv_w4_contiguous(x, weight, scales, NULL, logits, 1, features, classes, 2) != 0 ||
      softmax_f32_contiguous(logits, shares, 1, classes, 1) != 0)
    return 1;

  for (int row = 0; row < classes; row++) {
    double logit = 0;
    for (int i = 0; i < features; i++)
      logit += (double)x[i] * scales[row * groups + i / group] * weight_at(row, i);
    worst = fmax(worst, fabs(logit - logits[row]));
    sum += shares[row];
  }
  printf("gemv_w4 for %s, softmax for %s: off by %.0e, shares add up to %.5f\n", gemv_w4_target(), softmax_f32_target(),
         worst, sum);
  return worst < 1e-5 && fabs(sum - 1) < 1e-5 ? 0 : 2;
}
