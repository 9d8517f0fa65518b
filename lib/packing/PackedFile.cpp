#include "bitloom/lib/packing/PackedFile.h"

#include "bitloom/lib/packing/PackedFormat.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/lib/support/Xxh64.h"
#include "bitloom/lib/target/Target.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bitloom {

static_assert(sizeof(bitloom_packed_header) == 64 && sizeof(bitloom_packed_tensor) == 128);
static_assert(int(DType::f16) == 9 && int(DType::bf16) == 10 && int(DType::f32) == 11);

static const std::vector<std::string> &targetKinds() {
  static const std::vector<std::string> kinds = {"any", "x86", "aarch64", "gpu"};
  return kinds;
}

std::string_view packedTargetOf(const Target &target) {
  switch (target.family) {
  case Family::Cpu_x86:
    return "x86";
  case Family::Cpu_aarch64:
    return "aarch64";
  case Family::Nvptx:
    return "gpu";
  }
  throw InternalError("a family of targets with no packed files");
}

static void checkKind(std::string_view target) {
  if (std::ranges::find(targetKinds(), target) == targetKinds().end())
    throw UserError("unknown target '" + std::string(target) + "' of packed weights" +
                    expectedOneOf(target, targetKinds()));
}

// Of the header and the table together.
static uint64_t checksumOf(bitloom_packed_header header, std::span<const std::byte> table) {
  header.checksum = 0;
  std::vector<std::byte> both(sizeof header + table.size());
  std::memcpy(both.data(), &header, sizeof header);
  std::memcpy(both.data() + sizeof header, table.data(), table.size());
  return xxh64(both.data(), both.size());
}

//===- Reading ----------------------------------------------------------------------------------------------------===//

std::shared_ptr<const PackedFile> PackedFile::open(const std::string &path, std::string_view target) {
  checkKind(target);
  auto fail = [&](const std::string &what) { throw UserError(path + ": " + what); };
  std::shared_ptr<PackedFile> opened(new PackedFile);
  opened->file = path;
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    fail(std::string("expected a file of packed weights, got none: ") + std::strerror(errno));
  struct stat facts;
  const bool regular = fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode);
  opened->bytes = regular ? size_t(facts.st_size) : 0;
  if (opened->bytes >= sizeof(bitloom_packed_header)) {
    void *mapped = mmap(nullptr, opened->bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    if (mapped != MAP_FAILED)
      opened->start = static_cast<const std::byte *>(mapped);
  }
  const int error = errno;
  close(descriptor);
  if (!opened->start && opened->bytes >= sizeof(bitloom_packed_header))
    fail(std::string("could not map it into memory: ") + std::strerror(error));
  if (!opened->start)
    fail("expected a file of packed weights, got " +
         (regular ? std::to_string(opened->bytes) + " bytes" : "no regular file"));
  opened->readTable();
  if (opened->madeFor != "any" && target != "any" && opened->madeFor != target)
    fail("expected weights packed for " + std::string(target) + ", got some packed for " + opened->madeFor +
         ": pack them again for this target");
  return opened;
}

PackedFile::~PackedFile() {
  if (start)
    munmap(const_cast<std::byte *>(start), bytes);
}

void PackedFile::readTable() {
  auto fail = [&](const std::string &what) { throw UserError(file + ": " + what); };
  bitloom_packed_header header;
  std::memcpy(&header, start, sizeof header);
  if (std::memcmp(header.magic, BITLOOM_PACKED_MAGIC, sizeof header.magic) != 0)
    fail("expected a file of packed weights, which begins with " BITLOOM_PACKED_MAGIC ", got another one");
  if (header.version != BITLOOM_PACKED_VERSION)
    fail("expected version " + std::to_string(BITLOOM_PACKED_VERSION) + " of packed weights, got version " +
         std::to_string(header.version) +
         (header.version > BITLOOM_PACKED_VERSION ? ": a newer bitloom wrote it" : ""));
  if (header.file_bytes != bytes)
    fail("expected " + std::to_string(header.file_bytes) + " bytes, got " + std::to_string(bytes) +
         (bytes < header.file_bytes ? ": it was cut off" : ""));
  const size_t least = sizeof header, records = header.tensors * sizeof(bitloom_packed_tensor);
  if (header.table < least || header.table > bytes || header.table % alignof(bitloom_packed_tensor) != 0 ||
      records > bytes - header.table)
    fail("expected a table inside of the file, got one at " + std::to_string(header.table));
  const std::span table(start + header.table, bytes - header.table);
  if (const uint64_t sum = checksumOf(header, table); sum != header.checksum)
    fail("expected the checksum " + std::to_string(header.checksum) + " of its table, got " + std::to_string(sum) +
         ": it is damaged");
  madeFor.assign(header.target, strnlen(header.target, sizeof header.target));

  // The checksum holds; what follows finds a writer that was wrong.
  auto text = [&](uint64_t offset) {
    if (offset < header.table + records || offset >= bytes)
      fail("expected texts in its table, got one at " + std::to_string(offset));
    auto from = reinterpret_cast<const char *>(start + offset);
    return std::string(from, strnlen(from, bytes - offset));
  };
  auto section = [&](const bitloom_packed_section &at, const char *what, const PackedTensor &tensor, int64_t wanted) {
    if (at.offset % BITLOOM_PACKED_ALIGNMENT != 0 || at.offset > header.table || at.bytes > header.table - at.offset ||
        at.bytes != uint64_t(wanted))
      fail("tensor " + tensor.name + ": expected " + std::to_string(wanted) + " bytes of " + what +
           " before its table, got " + std::to_string(at.bytes) + " at " + std::to_string(at.offset));
    return std::span(start + at.offset, at.bytes);
  };
  for (uint32_t i = 0; i < header.tensors; ++i) {
    bitloom_packed_tensor record;
    std::memcpy(&record, start + header.table + i * sizeof record, sizeof record);
    PackedTensor tensor;
    tensor.name = text(record.name);
    try {
      tensor.format = {Packing::parse(text(record.packing)), record.group, record.asymmetric != 0,
                       DType(record.scale_dtype)};
      tensor.format.check();
    } catch (const UserError &error) {
      fail("tensor " + tensor.name + ": " + error.message());
    }
    constexpr uint64_t most = uint64_t{1} << 40; // so that no product below overflows
    if (record.rows > most || record.columns > most || (record.rows && record.columns > (most << 8) / record.rows))
      fail("tensor " + tensor.name + ": expected fewer values, got " + std::to_string(record.rows) + " x " +
           std::to_string(record.columns));
    tensor.rows = int64_t(record.rows);
    tensor.columns = int64_t(record.columns);
    const WeightFormat &format = tensor.format;
    tensor.weight = section(record.weight, "weights", tensor, format.weightBytes(tensor.rows, tensor.columns));
    tensor.scales = section(record.scales, "scales", tensor, format.scaleBytes(tensor.rows, tensor.columns));
    tensor.zeros = section(record.zeros, "zeros", tensor, format.zeroBytes(tensor.rows, tensor.columns));
    all.push_back(std::move(tensor));
  }
}

const PackedTensor &PackedFile::tensor(std::string_view name) const {
  std::vector<std::string> names;
  for (const PackedTensor &tensor : all) {
    if (tensor.name == name)
      return tensor;
    names.push_back(tensor.name);
  }
  throw UserError(file + ": unknown tensor '" + std::string(name) + "'" +
                  (names.empty() ? ": it holds none" : expectedOneOf(name, names)));
}

void PackedFile::verify() const {
  bitloom_packed_header header;
  std::memcpy(&header, start, sizeof header);
  for (size_t i = 0; i < all.size(); ++i) {
    bitloom_packed_tensor record;
    std::memcpy(&record, start + header.table + i * sizeof record, sizeof record);
    for (auto [section, what] :
         {std::pair(record.weight, "weights"), std::pair(record.scales, "scales"), std::pair(record.zeros, "zeros")})
      if (const uint64_t sum = xxh64(start + section.offset, section.bytes); sum != section.checksum)
        throw UserError(file + ": tensor " + all[i].name + ": expected the checksum " +
                        std::to_string(section.checksum) + " of its " + what + ", got " + std::to_string(sum) +
                        ": it is damaged");
  }
}

//===- Writing ----------------------------------------------------------------------------------------------------===//

struct PackedFileWriter::Pending {
  std::string path, temporary;
  int descriptor = -1;
  bitloom_packed_header header{};
  uint64_t at = sizeof(bitloom_packed_header);
  std::vector<bitloom_packed_tensor> records; // name and packing count from the start of the texts
  std::string texts;
  std::vector<std::string> names;
  std::vector<std::byte> weight, scales, zeros; // of the tensor in hand, kept for the next

  void write(const void *data, size_t count, uint64_t offset) {
    auto from = static_cast<const char *>(data);
    while (count > 0) {
      ssize_t written = pwrite(descriptor, from, count, off_t(offset));
      if (written < 0 && errno == EINTR)
        continue;
      if (written <= 0)
        throw UserError("could not write '" + path + "': " + std::strerror(errno));
      from += written;
      offset += uint64_t(written);
      count -= size_t(written);
    }
  }
  uint64_t addText(std::string_view text) {
    const uint64_t offset = texts.size();
    texts.append(text).push_back('\0');
    return offset;
  }
  bitloom_packed_section addSection(std::span<const std::byte> bytes) {
    const bitloom_packed_section section{at, bytes.size(), xxh64(bytes.data(), bytes.size())};
    write(bytes.data(), bytes.size(), at);
    at = (at + bytes.size() + BITLOOM_PACKED_ALIGNMENT - 1) / BITLOOM_PACKED_ALIGNMENT * BITLOOM_PACKED_ALIGNMENT;
    return section;
  }
};

PackedFileWriter::PackedFileWriter(const std::string &path, std::string_view target) : pending(new Pending) {
  checkKind(target);
  Pending &own = *pending;
  own.path = path;
  own.temporary = path + "." + std::to_string(getpid()) + ".tmp";
  own.descriptor = ::open(own.temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (own.descriptor < 0)
    throw UserError("could not write '" + path + "': " + std::strerror(errno));
  std::memcpy(own.header.magic, BITLOOM_PACKED_MAGIC, sizeof own.header.magic);
  own.header.version = BITLOOM_PACKED_VERSION;
  target.copy(own.header.target, sizeof own.header.target);
}

PackedFileWriter::~PackedFileWriter() {
  if (pending->descriptor < 0)
    return;
  close(pending->descriptor);
  unlink(pending->temporary.c_str());
}

void PackedFileWriter::add(const std::string &name, const WeightFormat &format, const void *weights, DType dtype,
                           int64_t rows, int64_t columns, const std::function<void(int64_t)> &progress) {
  Pending &own = *pending;
  try {
    format.check();
    own.weight.resize(size_t(format.weightBytes(rows, columns)));
    own.scales.resize(size_t(format.scaleBytes(rows, columns)));
    own.zeros.resize(size_t(format.zeroBytes(rows, columns)));
    quantize(format, weights, dtype, rows, columns, reinterpret_cast<uint8_t *>(own.weight.data()), own.scales.data(),
             own.zeros.data(), progress);
  } catch (const UserError &error) {
    throw UserError("tensor " + name + ": " + error.message());
  }
  add({name, rows, columns, format, own.weight, own.scales, own.zeros});
}

void PackedFileWriter::add(const PackedTensor &tensor) {
  Pending &own = *pending;
  auto fail = [&](const std::string &what) { throw UserError("tensor " + tensor.name + ": " + what); };
  if (std::ranges::find(own.names, tensor.name) != own.names.end())
    fail("expected tensors of different names, got this one twice");
  const WeightFormat &format = tensor.format;
  auto check = [&](const char *what, std::span<const std::byte> bytes, int64_t wanted) {
    if (bytes.size() != size_t(wanted))
      fail("expected " + std::to_string(wanted) + " bytes of " + what + ", got " + std::to_string(bytes.size()));
  };
  check("weights", tensor.weight, format.weightBytes(tensor.rows, tensor.columns));
  check("scales", tensor.scales, format.scaleBytes(tensor.rows, tensor.columns));
  check("zeros", tensor.zeros, format.zeroBytes(tensor.rows, tensor.columns));
  own.names.push_back(tensor.name);
  bitloom_packed_tensor record{};
  record.name = own.addText(tensor.name);
  record.packing = own.addText(format.packing.toString());
  record.rows = uint64_t(tensor.rows);
  record.columns = uint64_t(tensor.columns);
  record.row_bytes = uint64_t(format.packing.bytesPerRow(format.storedColumns(tensor.columns)));
  record.bits = uint32_t(format.packing.bits);
  record.group = uint32_t(format.group);
  record.scale_dtype = uint32_t(format.scales);
  record.asymmetric = format.asymmetric;
  record.weight = own.addSection(tensor.weight);
  record.scales = own.addSection(tensor.scales);
  record.zeros = own.addSection(tensor.zeros);
  own.records.push_back(record);
}

void PackedFileWriter::finish() {
  Pending &own = *pending;
  const uint64_t records = own.records.size() * sizeof(bitloom_packed_tensor);
  for (bitloom_packed_tensor &record : own.records) {
    record.name += own.at + records;
    record.packing += own.at + records;
  }
  std::vector<std::byte> table(records + own.texts.size());
  std::memcpy(table.data(), own.records.data(), records);
  std::memcpy(table.data() + records, own.texts.data(), own.texts.size());
  own.header.tensors = uint32_t(own.records.size());
  own.header.table = own.at;
  own.header.file_bytes = own.at + table.size();
  own.header.checksum = checksumOf(own.header, table);
  own.write(table.data(), table.size(), own.at);
  own.write(&own.header, sizeof own.header, 0);
  const int descriptor = std::exchange(own.descriptor, -1);
  if (close(descriptor) != 0 || rename(own.temporary.c_str(), own.path.c_str()) != 0) {
    const int error = errno;
    unlink(own.temporary.c_str());
    throw UserError("could not write '" + own.path + "': " + std::strerror(error));
  }
}

} // namespace bitloom
