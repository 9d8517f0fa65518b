// Files of packed weights: written once, mapped into memory, and used as they lie there. PackedFormat.h is the layout.
#pragma once

#include "bitloom/lib/packing/Quantize.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

struct Target;

// What a file's packings are for: "x86", "aarch64" or "gpu". "any" stands for packings that all targets read well.
std::string_view packedTargetOf(const Target &target);

struct PackedTensor {
  std::string name;
  int64_t rows = 0, columns = 0;
  WeightFormat format;
  std::span<const std::byte>
      weight; // rows, or panels, × format.packing.bytesPerRow(format.storedColumns(columns)), 64-byte aligned
  std::span<const std::byte>
      scales; // rows × format.groups(columns) of format.scales, or [groups, rows] (Quantize.h), aligned so
  std::span<const std::byte> zeros; // the same, or empty
};

class PackedFile {
public:
  // Maps a file and checks its header and table; the weights are not read. `target`, when given, is what the caller
  // would use them for. UserError, which begins with the path: it cannot be read, is no such file, is of another
  // version, is cut off, its table is damaged, or it is for another target.
  static std::shared_ptr<const PackedFile> open(const std::string &path, std::string_view target = "any");
  ~PackedFile();
  PackedFile(const PackedFile &) = delete;
  PackedFile &operator=(const PackedFile &) = delete;

  const std::string &path() const { return file; }
  const std::string &target() const { return madeFor; }
  const std::vector<PackedTensor> &tensors() const { return all; } // valid as long as this is
  // UserError, with a suggestion, when there is none of that name.
  const PackedTensor &tensor(std::string_view name) const;
  // Reads all of it. UserError: a tensor whose bytes are not those that were written.
  void verify() const;

private:
  PackedFile() = default;
  void readTable();

  std::string file, madeFor;
  const std::byte *start = nullptr;
  size_t bytes = 0;
  std::vector<PackedTensor> all;
};

// Writes such a file beside its place and renames it into it when finished: a reader sees all of it or nothing.
class PackedFileWriter {
public:
  // `target`: any, x86, aarch64 or gpu. UserError, here and below: the file cannot be written.
  PackedFileWriter(const std::string &path, std::string_view target = "any");
  ~PackedFileWriter(); // without finish(), nothing is left
  PackedFileWriter(const PackedFileWriter &) = delete;
  PackedFileWriter &operator=(const PackedFileWriter &) = delete;

  // Quantises a matrix (Quantize.h) and appends it. UserError, which names the tensor: also a name that was there.
  void add(const std::string &name, const WeightFormat &format, const void *weights, DType dtype, int64_t rows,
           int64_t columns, const std::function<void(int64_t)> &progress = {});
  // Appends what is packed already, of the sizes that `tensor` says.
  void add(const PackedTensor &tensor);
  void finish();

private:
  struct Pending;
  std::unique_ptr<Pending> pending;
};

} // namespace bitloom
