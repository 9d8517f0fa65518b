#include "bitloom/lib/packing/PackedFile.h"

#include "bitloom/lib/packing/PackedFormat.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/target/Target.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <unistd.h>

using namespace bitloom;
using Order = Packing::Order;
namespace fs = std::filesystem;

namespace {

class PackedFiles : public testing::Test {
protected:
  void SetUp() override { fs::create_directories(folder); }
  void TearDown() override { fs::remove_all(folder); }

  // Two tensors of awkward shapes.
  std::string written(std::string_view target = "any") {
    PackedFileWriter writer(path, target);
    writer.add("model.first", first, weights.data(), DType::f32, 5, 67);
    writer.add("model.second", second, weights.data(), DType::f32, 3, 64);
    writer.finish();
    return path;
  }
  std::string bytesOf(const std::string &file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void rewrite(const std::function<void(std::string &)> &change) {
    std::string bytes = bytesOf(path);
    change(bytes);
    std::ofstream(path, std::ios::binary) << bytes;
  }
  std::string messageOf(const std::function<void()> &action) {
    try {
      action();
    } catch (const UserError &error) {
      return error.what();
    }
    return "no error";
  }
  std::string openingSays(std::string_view target = "any") {
    return messageOf([&] { PackedFile::open(path, target); });
  }

  const std::string folder = (fs::temp_directory_path() / ("bitloom-packed-" + std::to_string(getpid()))).string();
  const std::string path = folder + "/weights.blw";
  const WeightFormat first{{3, Order::Planar, 32}, 32, true, DType::f16}, second{{4, Order::LowFirst, 8}, 48};
  const std::vector<float> weights = [] {
    std::vector<float> values;
    for (int i = 0; i < 5 * 67; ++i)
      values.push_back(float(i * 37 % 101 - 50) / 64);
    return values;
  }();
};

template <class T> std::vector<T> copied(std::span<const std::byte> bytes) {
  std::vector<T> all(bytes.size() / sizeof(T));
  std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}

} // namespace

TEST_F(PackedFiles, HoldWhatWasQuantised) {
  auto file = PackedFile::open(written());
  file->verify();
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->target(), "any");
  for (auto [name, format, rows, columns] :
       {std::tuple("model.first", first, 5, 67), std::tuple("model.second", second, 3, 64)}) {
    const PackedTensor &tensor = file->tensor(name);
    EXPECT_EQ(tensor.rows, rows);
    EXPECT_EQ(tensor.columns, columns);
    EXPECT_EQ(tensor.format, format);
    std::vector<uint8_t> weight(size_t(format.weightBytes(rows, columns)));
    std::vector<std::byte> scales(size_t(format.scaleBytes(rows, columns))),
        zeros(size_t(format.zeroBytes(rows, columns)));
    quantize(format, weights.data(), DType::f32, rows, columns, weight.data(), scales.data(), zeros.data());
    EXPECT_EQ(copied<uint8_t>(tensor.weight), weight);
    EXPECT_EQ(copied<std::byte>(tensor.scales), scales);
    EXPECT_EQ(copied<std::byte>(tensor.zeros), zeros);
    for (auto section : {tensor.weight, tensor.scales})
      EXPECT_EQ(reinterpret_cast<uintptr_t>(section.data()) % BITLOOM_PACKED_ALIGNMENT, 0u);
  }
}

TEST_F(PackedFiles, AreCopiedAndOutliveTheirName) {
  auto file = PackedFile::open(written());
  const std::string other = folder + "/other.blw";
  PackedFileWriter writer(other, "aarch64");
  for (const PackedTensor &tensor : file->tensors())
    writer.add(tensor);
  writer.finish();
  fs::remove(path);
  auto again = PackedFile::open(other);
  again->verify();
  file->verify();
  EXPECT_EQ(copied<uint8_t>(again->tensor("model.first").weight), copied<uint8_t>(file->tensor("model.first").weight));
}

TEST_F(PackedFiles, MayBeEmpty) {
  PackedFileWriter writer(path);
  writer.add("none", second, nullptr, DType::f16, 0, 64);
  writer.finish();
  auto file = PackedFile::open(path);
  file->verify();
  EXPECT_EQ(file->tensor("none").rows, 0);
  EXPECT_TRUE(file->tensor("none").weight.empty());
}

TEST_F(PackedFiles, TruncationIsNamed) {
  written();
  const size_t whole = fs::file_size(path);
  for (size_t length : {whole - 1, whole / 2, size_t(64)}) {
    fs::resize_file(path, length);
    EXPECT_EQ(openingSays(), path + ": expected " + std::to_string(whole) + " bytes, got " + std::to_string(length) +
                                 ": it was cut off");
  }
  fs::resize_file(path, 63);
  EXPECT_EQ(openingSays(), path + ": expected a file of packed weights, got 63 bytes");
  fs::resize_file(path, 0);
  EXPECT_EQ(openingSays(), path + ": expected a file of packed weights, got 0 bytes");
}

TEST_F(PackedFiles, AnotherFileOrVersionIsNamed) {
  written();
  rewrite([](std::string &bytes) { bytes[8] = 3; });
  EXPECT_EQ(openingSays(), path + ": expected version 2 of packed weights, got version 3: a newer bitloom wrote it");
  rewrite([](std::string &bytes) { bytes[0] = 'b'; });
  EXPECT_EQ(openingSays(), path + ": expected a file of packed weights, which begins with BITLOOMW, got another one");
  EXPECT_EQ(messageOf([&] { PackedFile::open(folder); }),
            folder + ": expected a file of packed weights, got no regular file");
  EXPECT_EQ(messageOf([&] { PackedFile::open(folder + "/none"); }),
            folder + "/none: expected a file of packed weights, got none: No such file or directory");
}

TEST_F(PackedFiles, AnotherTargetIsNamed) {
  written("aarch64");
  EXPECT_EQ(openingSays("x86"), path +
                                    ": expected weights packed for x86, got some packed for aarch64: pack them again "
                                    "for this target");
  EXPECT_EQ(openingSays("aarch64"), "no error");
  EXPECT_EQ(openingSays(), "no error");
  written("any");
  EXPECT_EQ(openingSays("gpu"), "no error");
  EXPECT_EQ(openingSays("arm"), "unknown target 'arm' of packed weights: expected one of any, x86, aarch64, gpu");
  EXPECT_EQ(messageOf([&] { PackedFileWriter(path, "x87"); }),
            "unknown target 'x87' of packed weights: did you mean 'x86'? expected one of any, x86, aarch64, gpu");
  EXPECT_EQ(packedTargetOf(parseTarget("aarch64+dotprod")), "aarch64");
  EXPECT_EQ(packedTargetOf(parseTarget("x86-64-v3")), "x86");
  EXPECT_EQ(packedTargetOf(parseTarget("sm_90a")), "gpu");
}

// No byte of the file can change unseen: those of the header and table when it is opened, those of sections when it is
// verified. Between sections lie a few bytes that nobody reads.
TEST_F(PackedFiles, EveryDamagedByteIsSeen) {
  auto whole = PackedFile::open(written());
  const std::string bytes = bytesOf(path);
  const auto start = reinterpret_cast<const char *>(whole->tensors()[0].weight.data()) - sizeof(bitloom_packed_header);
  std::vector<bool> isRead(bytes.size(), true);
  uint64_t table = 0;
  std::memcpy(&table, bytes.data() + offsetof(bitloom_packed_header, table), sizeof table);
  std::fill(isRead.begin() + sizeof(bitloom_packed_header), isRead.begin() + long(table), false);
  for (const PackedTensor &tensor : whole->tensors())
    for (auto section : {tensor.weight, tensor.scales, tensor.zeros})
      for (size_t i = 0; i < section.size(); ++i)
        isRead[size_t(reinterpret_cast<const char *>(section.data()) - start) + i] = true;
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] = char(damaged[i] ^ 1 << i % 8);
    const std::string copy = folder + "/damaged.blw";
    std::ofstream(copy, std::ios::binary) << damaged;
    const std::string says = messageOf([&] { PackedFile::open(copy)->verify(); });
    ASSERT_EQ(says == "no error", !isRead[i]) << "byte " << i << ": " << says;
    if (isRead[i]) {
      ASSERT_TRUE(says.starts_with(copy + ": ") && says.find("expected ") != says.npos) << says;
    }
  }
  rewrite([&](std::string &all) { all[sizeof(bitloom_packed_header)] ^= 1; });
  const std::string says = messageOf([&] { PackedFile::open(path)->verify(); });
  EXPECT_TRUE(says.starts_with(path + ": tensor model.first: expected the checksum ") &&
              says.ends_with(": it is damaged"))
      << says;
}

TEST_F(PackedFiles, NamesOfTensorsAreChecked) {
  auto file = PackedFile::open(written());
  EXPECT_EQ(messageOf([&] { file->tensor("model.frst"); }),
            path +
                ": unknown tensor 'model.frst': did you mean 'model.first'? expected one of model.first, model.second");
  PackedFileWriter writer(folder + "/twice.blw");
  writer.add("a", second, weights.data(), DType::f32, 1, 64);
  EXPECT_EQ(messageOf([&] { writer.add("a", second, weights.data(), DType::f32, 1, 64); }),
            "tensor a: expected tensors of different names, got this one twice");
  PackedTensor short_{"b", 1, 64, second, {}, {}, {}};
  EXPECT_EQ(messageOf([&] { writer.add(short_); }), "tensor b: expected 48 bytes of weights, got 0");
  EXPECT_EQ(messageOf([&] { writer.add("c", second, weights.data(), DType::i32, 1, 64); }),
            "tensor c: expected weights of f32, f16 or bf16, got i32");
}

TEST_F(PackedFiles, AnUnfinishedFileLeavesNothing) {
  {
    PackedFileWriter(path).add("a", second, weights.data(), DType::f32, 3, 64);
  }
  EXPECT_TRUE(fs::is_empty(folder));
  EXPECT_EQ(messageOf([&] { PackedFileWriter(folder + "/no/such"); }),
            "could not write '" + folder + "/no/such': No such file or directory");
}
