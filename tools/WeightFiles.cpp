#include "bitloom/tools/WeightFiles.h"

#include "bitloom/lib/support/Error.h"

#include <boost/json/src.hpp> // Boost.JSON's sources: its headers are all that we need of it

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bitloom::tools {

void WeightFile::fail(const std::string &what) const { throw UserError(file + ": " + what); }

std::shared_ptr<const WeightFile> WeightFile::open(const std::string &path) {
  std::shared_ptr<WeightFile> opened(new WeightFile);
  opened->file = path;
  const bool numpy = path.ends_with(".npy");
  if (!numpy && !path.ends_with(".safetensors"))
    opened->fail("expected a file of .npy or .safetensors");
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    opened->fail(std::string("could not read it: ") + std::strerror(errno));
  struct stat facts;
  const bool regular = fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode);
  opened->bytes = regular ? size_t(facts.st_size) : 0;
  if (opened->bytes) {
    void *mapped = mmap(nullptr, opened->bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (mapped != MAP_FAILED)
      opened->start = static_cast<const char *>(mapped);
  }
  close(descriptor);
  if (!opened->start)
    opened->fail(regular ? "expected tensors, got an empty file" : "expected a regular file");
  madvise(const_cast<char *>(opened->start), opened->bytes, MADV_SEQUENTIAL);
  numpy ? opened->readNumpy() : opened->readSafetensors();
  return opened;
}

WeightFile::~WeightFile() {
  if (start)
    munmap(const_cast<char *>(start), bytes);
}

// Checks that the array's elements are what lies in [begin, end) of the file.
void WeightFile::add(WeightArray array, const std::vector<int64_t> &extents, size_t begin, size_t end) {
  if (begin > end || end > bytes)
    fail("tensor " + array.name + ": expected its bytes inside of the file of " + std::to_string(bytes) + ", got " +
         std::to_string(begin) + " to " + std::to_string(end) + (end > bytes ? ": it was cut off" : ""));
  if (extents.size() > size_t(maxRank)) {
    array.dtype.reset(); // no matrix: never looked at
  } else {
    int64_t wanted = array.dtype ? bytesOf(*array.dtype) : 1;
    for (int64_t extent : extents)
      if (extent < 0 || __builtin_mul_overflow(wanted, extent, &wanted))
        fail("tensor " + array.name + ": expected extents of 0 or more, and not too many elements");
    if (array.dtype && size_t(wanted) != end - begin)
      fail("tensor " + array.name + ": expected " + std::to_string(wanted) + " bytes for its elements, got " +
           std::to_string(end - begin));
    array.extents = Dims(extents);
  }
  array.data = start + begin;
  array.bytes = int64_t(end - begin);
  all.push_back(std::move(array));
}

//===- numpy ------------------------------------------------------------------------------------------------------===//

// The text that follows 'key': in the header, a literal of a Python dictionary that numpy itself wrote.
static std::string_view entryOf(std::string_view header, std::string_view key) {
  const std::string quoted = "'" + std::string(key) + "':";
  size_t at = header.find(quoted);
  if (at == header.npos)
    return "";
  header.remove_prefix(at + quoted.size());
  header.remove_prefix(std::min(header.find_first_not_of(' '), header.size()));
  return header;
}

// "NPY format", numpy.lib.format: the magic, two bytes of version, the header's length, the header.
void WeightFile::readNumpy() {
  const std::string_view content(start, bytes);
  if (!content.starts_with("\x93NUMPY") || bytes < 12)
    fail("expected numpy's .npy, got another format");
  const int version = content[6];
  const size_t lengthBytes = version == 1 ? 2 : 4;
  uint32_t length = 0;
  std::memcpy(&length, start + 8, lengthBytes);
  const size_t begin = 8 + lengthBytes + length;
  if (version < 1 || version > 3 || begin > bytes)
    fail("expected a header of numpy's .npy, got a damaged one");
  const std::string_view header = content.substr(8 + lengthBytes, length);

  WeightArray array;
  array.name = std::filesystem::path(file).stem().string();
  std::string_view descr = entryOf(header, "descr"), shape = entryOf(header, "shape");
  if (!descr.starts_with("'") || descr.find('\'', 1) == descr.npos || !shape.starts_with("(") ||
      shape.find(')') == shape.npos)
    fail("expected an array of numbers, got the header " + std::string(header));
  array.dtypeName = descr.substr(1, descr.find('\'', 1) - 1);
  for (auto [name, dtype] : {std::pair("<f2", DType::f16), std::pair("<f4", DType::f32), std::pair("<f8", DType::f64)})
    if (array.dtypeName == name)
      array.dtype = dtype;
  if (entryOf(header, "fortran_order").starts_with("True"))
    fail("expected an array in C order, got one in Fortran order");
  std::vector<int64_t> extents;
  shape = shape.substr(1, shape.find(')') - 1);
  while (!shape.empty()) {
    const std::string_view item = shape.substr(0, shape.find(','));
    shape.remove_prefix(std::min(item.size() + 1, shape.size()));
    shape.remove_prefix(std::min(shape.find_first_not_of(' '), shape.size()));
    int64_t extent = -1;
    std::from_chars(item.data(), item.data() + item.size(), extent);
    extents.push_back(extent);
  }
  add(std::move(array), extents, begin, bytes);
}

//===- safetensors ------------------------------------------------------------------------------------------------===//

// The format's own description: 8 bytes of length, that many of JSON, the tensors' bytes.
void WeightFile::readSafetensors() {
  constexpr uint64_t largestHeader = 100'000'000; // the format's own limit
  uint64_t length = 0;
  if (bytes >= sizeof length)
    std::memcpy(&length, start, sizeof length);
  if (bytes < sizeof length || length < 2 || length > largestHeader || length > bytes - sizeof length)
    fail("expected a header of .safetensors, got none: it was cut off, or is of another format");
  const size_t base = sizeof length + length;
  boost::json::error_code error;
  boost::json::value header = boost::json::parse({start + sizeof length, length}, error);
  if (error || !header.is_object())
    fail("expected a header of JSON, got " + (error ? "a mistake in it: " + error.message() : "no object"));
  for (const auto &[key, value] : header.get_object()) {
    if (key == "__metadata__")
      continue;
    WeightArray array;
    array.name = std::string(key);
    const auto *entry = value.if_object();
    const auto *dtype = entry ? entry->if_contains("dtype") : nullptr;
    const auto *shape = entry ? entry->if_contains("shape") : nullptr;
    const auto *offsets = entry ? entry->if_contains("data_offsets") : nullptr;
    if (!dtype || !dtype->is_string() || !shape || !shape->is_array() || !offsets || !offsets->is_array())
      fail("tensor " + array.name + ": expected a dtype, a shape and data_offsets, got less");
    auto numbers = [&](const boost::json::array &list) {
      std::vector<int64_t> all;
      for (const boost::json::value &item : list) {
        boost::json::error_code wrong;
        all.push_back(item.to_number<int64_t>(wrong));
        if (wrong || all.back() < 0)
          fail("tensor " + array.name + ": expected whole numbers as shape and data_offsets");
      }
      return all;
    };
    const std::vector<int64_t> extents = numbers(shape->get_array()), range = numbers(offsets->get_array());
    array.dtypeName = std::string(dtype->get_string());
    for (auto [name, known] :
         {std::pair("F16", DType::f16), std::pair("BF16", DType::bf16), std::pair("F32", DType::f32),
          std::pair("F64", DType::f64), std::pair("I32", DType::i32)})
      if (array.dtypeName == name)
        array.dtype = known;
    if (range.size() != 2 || uint64_t(range[1]) > bytes)
      fail("tensor " + array.name + ": expected its bytes inside of the file of " + std::to_string(bytes) +
           " bytes: it was cut off");
    add(std::move(array), extents, base + size_t(range[0]), base + size_t(range[1]));
  }
  std::ranges::sort(all, {}, &WeightArray::data);
}

} // namespace bitloom::tools
