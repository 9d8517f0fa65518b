// The part of the DLPack 1.x binary interface that crosses into this module (dmlc.github.io/dlpack): the layout of
// these structures is a contract between libraries, their names here are ours.
#pragma once

#include <cstdint>

namespace bitloom::dlpack {

enum DeviceType : int32_t { Cpu = 1, Cuda = 2, CudaHost = 3, CudaManaged = 13 };
struct Device {
  int32_t type;
  int32_t index;
};

enum TypeCode : uint8_t {
  Int = 0,
  UInt = 1,
  Float = 2,
  BFloat = 4,
  Complex = 5,
  Bool = 6,
  Float8E4M3FN = 10,
  Float8E5M2 = 12
};
struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void *data;
  Device device;
  int32_t rank;
  DataType dtype;
  int64_t *extents;
  int64_t *strides; // elements; null for C order before version 1.2
  uint64_t byteOffset;
};

struct Version {
  uint32_t major;
  uint32_t minor;
};

// What a capsule named "dltensor" holds.
struct Managed {
  Tensor tensor;
  void *owner;
  void (*release)(Managed *);
};

constexpr uint64_t readOnlyFlag = 1;

// What a capsule named "dltensor_versioned" holds.
struct ManagedVersioned {
  Version version;
  void *owner;
  void (*release)(ManagedVersioned *);
  uint64_t flags;
  Tensor tensor;
};

// What the capsule "dlpack_exchange_api" of a tensor type points to: its library's functions, for use without a call of
// Python. Each returns 0, or else has set a Python exception (`allocate` calls `fail` instead).
struct ExchangeApi {
  Version version;
  void *previous;
  int (*allocate)(Tensor *like, ManagedVersioned **out, void *context,
                  void (*fail)(void *, const char *, const char *));
  int (*managedOf)(void *object, ManagedVersioned **out);
  int (*objectOf)(ManagedVersioned *tensor, void **object);
  int (*borrow)(void *object, Tensor *out); // may be null; valid while the object lives
  int (*currentStream)(int32_t deviceType, int32_t deviceIndex, void **stream);
};

} // namespace bitloom::dlpack
