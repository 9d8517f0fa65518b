/* A file of packed weights, as it lies on disk and in memory: plain C, so that programs with no C++ map it and use it.
 *
 * A header; the sections of the tensors, each from a multiple of BITLOOM_PACKED_ALIGNMENT; then the table: one record a
 * tensor, followed by the texts they refer to, each ended by a zero. Numbers are little-endian, offsets count from the
 * start of the file. A checksum is XXH64 with seed 0. */
#ifndef BITLOOM_PACKED_FORMAT_H
#define BITLOOM_PACKED_FORMAT_H

#include <stdint.h>

#define BITLOOM_PACKED_MAGIC "BITLOOMW"
#define BITLOOM_PACKED_VERSION 2
#define BITLOOM_PACKED_ALIGNMENT 64

typedef struct bitloom_packed_header {
  char magic[8];       /* BITLOOM_PACKED_MAGIC, without the zero */
  uint32_t version;    /* BITLOOM_PACKED_VERSION */
  uint32_t tensors;    /* records in the table */
  uint64_t file_bytes; /* of the whole file: a shorter one was cut off */
  uint64_t table;      /* offset of the table, which reaches to the end of the file */
  uint64_t checksum;   /* of this header, with zero here, followed by the table */
  char target[24];     /* what the packings are for: "any", "x86", "aarch64" or "gpu"; zeros after */
} bitloom_packed_header;

typedef struct bitloom_packed_section {
  uint64_t offset, bytes, checksum;
} bitloom_packed_section;

/* A matrix of rows × columns. Its value (r, c) is scale · q, or scale · (q - zero) where there are zeros, of the group
 * c / group of row r; q is the field c of row r of the packed bytes, signed without zeros and unsigned with. A packing
 * of the order columns has panels of several rows, the last filled up with zeros, and its scales and zeros are those of
 * all rows for one group after the other. */
typedef struct bitloom_packed_tensor {
  uint64_t name, packing; /* offsets of texts; the packing reads as `bitloom packing` takes it */
  uint64_t rows, columns;
  uint64_t row_bytes;            /* of a row, or panel, of packed fields: those past the columns are zero */
  uint32_t bits, group;          /* of a value; values that share a scale */
  uint32_t scale_dtype;          /* 9 f16, 10 bf16, 11 f32: of scales and zeros */
  uint32_t asymmetric;           /* whether there are zeros */
  bitloom_packed_section weight; /* rows, or panels, × row_bytes */
  bitloom_packed_section scales; /* rows × ceil(columns / group) */
  bitloom_packed_section zeros;  /* the same, or empty */
} bitloom_packed_tensor;

#endif
