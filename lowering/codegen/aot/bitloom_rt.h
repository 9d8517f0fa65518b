/* What kernels compiled ahead of time need at run time: C11 and, unless BITLOOM_RT_NO_THREADS is defined, POSIX
 * threads. Compile bitloom_rt.c once with the program. */
#ifndef BITLOOM_RT_H
#define BITLOOM_RT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A kernel: runs the programs of linear index begin to end - 1, where linear = x + grid[0] * (y + grid[1] * z).
 * A view of rank R takes 1 + 2R words: the pointer, R extents, R strides, both in elements; a scalar takes one, its
 * bits in the low bytes and zeros above. Kernels hold no state: any number of threads may run one. */
typedef void bitloom_kernel(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end);

/* Runs the whole grid and returns when all is done: on this thread for threads = 1, on that many for more, and on one
 * for each processor for 0. A grid with an extent of 0 or less runs nothing. Without threads it runs on this one. */
void bitloom_rt_run(bitloom_kernel *kernel, const int64_t *words, const int64_t grid[3], int threads);

/* The extents and strides of a view as words; strides NULL stands for those of rows in C order. */
static inline void bitloom_rt_pack_view(int64_t *words, int rank, const int64_t *extents, const int64_t *strides) {
  int64_t stride = 1;
  for (int d = rank - 1; d >= 0; d--) {
    words[d] = extents[d];
    words[rank + d] = strides ? strides[d] : stride;
    stride *= extents[d];
  }
}

/* Code of a kernel for one target, "aarch64+dotprod". */
struct bitloom_rt_variant {
  const char *target;
  bitloom_kernel *kernel;
};

/* Whether this processor, and its operating system, run a target's code. On AArch64 it is Linux that is asked;
 * elsewhere only the base is known to run. */
int bitloom_rt_runs(const char *target);

/* The last of the variants that this processor runs; where it runs none, bitloom_rt_assert and abort. */
const struct bitloom_rt_variant *bitloom_rt_choose(const char *kernel, const struct bitloom_rt_variant *variants,
                                                   int count);

/* What the kernels call. An assertion that fails is printed to stderr and ends the process; define your own function of
 * this name to do otherwise, and it may return. */
void bitloom_rt_assert(const char *message);
/* Prints contiguous elements in C order to stdout. dtype: 0 b1, 1 i8, 2 u8, 3 i16, 4 u16, 5 i32, 6 u32, 7 i64, 8 u64,
 * 9 f16, 10 bf16, 11 f32, 12 f64, 13 f8e4m3, 14 f8e5m2. */
void bitloom_rt_print(const char *label, int32_t dtype, const void *data, int64_t rank, const int64_t *shape);

#ifdef __cplusplus
}
#endif
#endif
