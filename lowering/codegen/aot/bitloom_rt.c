#define _POSIX_C_SOURCE 200809L
#include "bitloom_rt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

#ifndef BITLOOM_RT_NO_THREADS
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { max_threads = 256, ranges_per_thread = 8 };

struct loop {
  bitloom_kernel *kernel;
  const int64_t *words, *grid;
  int64_t total, chunk;
  _Atomic int64_t next;
};

static void *take_ranges(void *argument) {
  struct loop *loop = argument;
  for (;;) {
    int64_t begin = atomic_fetch_add_explicit(&loop->next, loop->chunk, memory_order_relaxed);
    if (begin >= loop->total)
      return NULL;
    int64_t end = loop->total - begin < loop->chunk ? loop->total : begin + loop->chunk;
    loop->kernel(loop->words, loop->grid, begin, end);
  }
}

static void run_on_threads(bitloom_kernel *kernel, const int64_t *words, const int64_t grid[3], int64_t total,
                           int threads) {
  struct loop loop = {.kernel = kernel, .words = words, .grid = grid, .total = total};
  pthread_t others[max_threads];
  int started = 0;
  if (threads > total)
    threads = (int)total;
  loop.chunk = total / ((int64_t)threads * ranges_per_thread);
  if (loop.chunk < 1)
    loop.chunk = 1;
  atomic_init(&loop.next, 0);
  while (started < threads - 1 && pthread_create(&others[started], NULL, take_ranges, &loop) == 0)
    started++;
  take_ranges(&loop); /* all of it, should no thread have started */
  while (started > 0)
    pthread_join(others[--started], NULL);
}
#endif

void bitloom_rt_run(bitloom_kernel *kernel, const int64_t *words, const int64_t grid[3], int threads) {
  if (grid[0] <= 0 || grid[1] <= 0 || grid[2] <= 0)
    return;
  const int64_t total = grid[0] * grid[1] * grid[2];
#ifndef BITLOOM_RT_NO_THREADS
  if (threads == 0)
    threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (threads > max_threads)
    threads = max_threads;
  if (threads > 1 && total > 1) {
    run_on_threads(kernel, words, grid, total, threads);
    return;
  }
#else
  (void)threads;
#endif
  kernel(words, grid, 0, total);
}

/* Where the processor says that it has a feature: a word of its answers, and the bits of which all must be set. */
struct feature {
  const char *name;
  int word;
  uint32_t bits;
};
#define BIT(n) ((uint32_t)1 << (n))

#if defined(__aarch64__)
/* Bits of the kernel's arch/arm64 elf_hwcaps. */
static const struct feature features[] = {
    {"aarch64", 0, 0},      {"dotprod", 0, BIT(20)}, {"fullfp16", 0, BIT(9) | BIT(10)},
    {"bf16", 1, BIT(14)},   {"i8mm", 1, BIT(13)},    {"sve2", 1, BIT(1)},
};

static void ask(uint32_t *words) {
#ifdef __linux__
  words[0] = (uint32_t)getauxval(AT_HWCAP);
  words[1] = (uint32_t)getauxval(AT_HWCAP2);
#else
  words[0] = words[1] = 0;
#endif
}
#elif defined(__x86_64__)
/* Words: 0 leaf 7 ebx, 1 leaf 7 ecx, 2 leaf 7 edx, 3 leaf 7.1 eax. Of x86-64-v3 more than AVX2 is asked for, in ask(). */
static const struct feature features[] = {
    {"x86-64", 0, 0},
    {"x86-64-v3", 0, BIT(5) | BIT(3) | BIT(8)},
    {"x86-64-v4", 0, BIT(5) | BIT(3) | BIT(8) | BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31)},
    {"avxvnni", 3, BIT(4)},
    {"avx512vnni", 1, BIT(11)},
    {"avx512vbmi", 1, BIT(1)},
    {"avx512bf16", 3, BIT(5)},
    {"avx512fp16", 2, BIT(23)},
};

/* Intel's manual, "CPUID" and "XGETBV": what the operating system does not save is as good as absent. */
static void ask(uint32_t *words) {
  uint32_t a, b, c, d, extended_c, saved, high;
  memset(words, 0, 4 * sizeof *words);
  if (!__get_cpuid(1, &a, &b, &c, &d) || (~c & (BIT(12) | BIT(27) | BIT(28) | BIT(29)))) /* fma, xsave, avx, f16c */
    return;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  if ((saved & 6) != 6 || !__get_cpuid(0x80000001, &a, &b, &extended_c, &d) || !(extended_c & BIT(5)) /* lzcnt */
      || !__get_cpuid_count(7, 0, &a, &words[0], &words[1], &words[2]))
    return;
  if (a >= 1)
    __get_cpuid_count(7, 1, &words[3], &b, &c, &d);
  if ((saved & 0xe6) != 0xe6) { /* no 512-bit registers */
    words[0] &= ~BIT(16);
    words[1] = words[2] = 0;
    words[3] &= ~BIT(5);
  }
}
#else
static const struct feature features[] = {{"", 0, 1}};
static void ask(uint32_t *words) { words[0] = 0; }
#endif

int bitloom_rt_runs(const char *target) {
  uint32_t words[4];
  ask(words);
  for (;;) {
    const size_t length = strcspn(target, "+");
    size_t i = 0;
    while (i < sizeof features / sizeof features[0] &&
           (strlen(features[i].name) != length || strncmp(features[i].name, target, length) != 0))
      i++;
    if (i == sizeof features / sizeof features[0] || (words[features[i].word] & features[i].bits) != features[i].bits)
      return 0;
    if (!target[length])
      return 1;
    target += length + 1;
  }
}

const struct bitloom_rt_variant *bitloom_rt_choose(const char *kernel, const struct bitloom_rt_variant *variants,
                                                   int count) {
  char message[160];
  while (count > 0)
    if (bitloom_rt_runs(variants[--count].target))
      return &variants[count];
  snprintf(message, sizeof message, "%s: this processor runs none of the targets that it was built for", kernel);
  bitloom_rt_assert(message);
  abort();
}

/* Weak, so that a program's own replaces it. */
__attribute__((weak)) void bitloom_rt_assert(const char *message) {
  fprintf(stderr, "%s\n", message);
  abort();
}

static double half_to_double(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = 0;
  if (exponent == 31) {
    const uint64_t special = (uint64_t)0x7ff << 52 | (uint64_t)fraction << 42;
    memcpy(&value, &special, sizeof value);
  } else {
    const int power = exponent ? exponent - 25 : -24; /* of the last bit of the fraction */
    const uint64_t scale = (uint64_t)(1023 + power) << 52;
    memcpy(&value, &scale, sizeof value);
    value *= exponent ? 1024 + fraction : fraction;
  }
  return bits >> 15 ? -value : value;
}

static double e4m3_to_double(unsigned code) {
  if ((code & 0x7f) == 0x7f)
    return half_to_double(0x7e00);
  return 256 * half_to_double((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7));
}

static int bytes_of(int32_t dtype) {
  static const unsigned char bytes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 1};
  return dtype >= 0 && dtype < (int32_t)sizeof bytes ? bytes[dtype] : 0;
}

/* The fewest digits that read back as the same number. */
static void print_float(double value, int single) {
  char text[32];
  int digits;
  for (digits = 1; digits < (single ? 9 : 17); digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (single ? strtof(text, NULL) == (float)value : strtod(text, NULL) == value)
      break;
  }
  printf("%.*g", digits, value);
}

static void print_element(int32_t dtype, const unsigned char *element) {
  uint64_t bits = 0;
  float single;
  double wide;
  const int size = bytes_of(dtype);
  memcpy(&bits, element, (size_t)size); /* targets are little-endian */
  switch (dtype) {
  case 9:
    print_float(half_to_double((uint16_t)bits), 1);
    break;
  case 10:
    bits <<= 16;
    /* fall through */
  case 11:
    memcpy(&single, &bits, sizeof single);
    print_float(single, 1);
    break;
  case 12:
    memcpy(&wide, &bits, sizeof wide);
    print_float(wide, 0);
    break;
  case 13:
    print_float(e4m3_to_double((unsigned)bits), 1);
    break;
  case 14: /* the upper half of a binary16 */
    print_float(half_to_double((uint16_t)(bits << 8)), 1);
    break;
  case 1:
  case 3:
  case 5:
  case 7:
    printf("%" PRId64, (int64_t)(bits << (64 - 8 * size)) >> (64 - 8 * size));
    break;
  default:
    printf("%" PRIu64, bits);
  }
}

static const unsigned char *print_rows(int32_t dtype, const unsigned char *next, int64_t rank, const int64_t *shape) {
  int64_t i;
  if (rank == 0) {
    print_element(dtype, next);
    return next + bytes_of(dtype);
  }
  putchar('[');
  for (i = 0; i < shape[0]; i++) {
    if (i)
      fputs(", ", stdout);
    next = print_rows(dtype, next, rank - 1, shape + 1);
  }
  putchar(']');
  return next;
}

void bitloom_rt_print(const char *label, int32_t dtype, const void *data, int64_t rank, const int64_t *shape) {
#ifndef BITLOOM_RT_NO_THREADS
  static pthread_mutex_t lines = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&lines);
#endif
  printf("%s = ", label);
  print_rows(dtype, data, rank, shape);
  putchar('\n');
  fflush(stdout);
#ifndef BITLOOM_RT_NO_THREADS
  pthread_mutex_unlock(&lines);
#endif
}
