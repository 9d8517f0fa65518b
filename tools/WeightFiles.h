// Matrices in files of other programs: numpy's .npy and Hugging Face's .safetensors.
#pragma once

#include "bitloom/lib/runtime/Tensor.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace bitloom::tools {

struct WeightArray {
  std::string name;           // the tensor's; of a .npy file, the file's without its folder and ending
  std::optional<DType> dtype; // none: one that we have not, `dtypeName` says which
  std::string dtypeName;      // as the file calls it
  Dims extents;
  const void *data = nullptr; // row-major, not necessarily aligned to its elements
  int64_t bytes = 0;
};

// A file mapped into memory, and what is in it.
class WeightFile {
public:
  // By the ending of its name. UserError, which begins with the path: it cannot be read, or is not what its ending
  // says.
  static std::shared_ptr<const WeightFile> open(const std::string &path);
  ~WeightFile();
  WeightFile(const WeightFile &) = delete;
  WeightFile &operator=(const WeightFile &) = delete;

  const std::string &path() const { return file; }
  const std::vector<WeightArray> &arrays() const {
    return all;
  } // in the order in which they lie; valid as long as this is

private:
  WeightFile() = default;
  void readNumpy();
  void readSafetensors();
  void add(WeightArray array, const std::vector<int64_t> &extents, size_t begin, size_t end);
  [[noreturn]] void fail(const std::string &what) const;

  std::string file;
  const char *start = nullptr;
  size_t bytes = 0;
  std::vector<WeightArray> all;
};

} // namespace bitloom::tools
