// Launches on a GPU as the driver sees them. This program is linked with a driver that records them.
#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Kernel.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lowering/Executable.h"
#include "bitloom/tests/fake_cuda/Driver.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace bitloom;

namespace {

const Device gpu = {Device::Kind::Cuda, 0};

// Addresses that nothing reads or writes, the same in every run: what is kept of them may fall in one place or two.
void *const memory[6] = {(void *)0x7f0000000000, (void *)0x7f0000010000, (void *)0x7f0000020000,
                         (void *)0x7f0000030000, (void *)0x7f0000040000, (void *)0x7f0000050000};

TensorRef matrix(int which, int64_t rows, int64_t columns) {
  return TensorRef(memory[which], DType::bf16, {rows, columns}, gpu);
}

Call product(int a, int b, int out) {
  Call call(kernelNamed("matmul"));
  call.set("a", matrix(a, 128, 64));
  call.set("b", matrix(b, 64, 128));
  call.set("out", matrix(out, 128, 128));
  call.resolve();
  return call;
}

// Addresses of a product's tensors by the parameters of matmul.
std::vector<void *> dataOf(int a, int b, int out) {
  const std::vector<Parameter> &parameters = kernelNamed("matmul").variants[0].parameters;
  std::vector<void *> data(parameters.size());
  for (auto [name, which] : {std::pair("a", a), std::pair("b", b), std::pair("out", out)})
    data[size_t(std::ranges::find(parameters, name, &Parameter::name) - parameters.begin())] = memory[which];
  return data;
}

} // namespace

TEST(CudaLaunch, WordsGridAndStreamReachTheDriver) {
  cuda::ContextScope scope(0);
  Call call(kernelNamed("vector_add"));
  const int64_t n = 4097;
  for (auto [name, at] : {std::pair("x", 0), std::pair("y", 1), std::pair("out", 2)})
    call.set(name, TensorRef(memory[at], DType::f32, {n}, gpu));
  call.resolve();
  const PreparedCall prepared = call.prepare(parseTarget("sm_90a"));
  fake::Recorded &driver = fake::driver();
  driver.words.resize(9);
  driver.maps.clear();
  int stream = 0;
  prepared.launch(&stream);
  auto word = [](const void *address) { return int64_t(reinterpret_cast<intptr_t>(address)); };
  EXPECT_EQ(driver.words, (std::vector<int64_t>{word(memory[0]), n, 1, word(memory[1]), n, 1, word(memory[2]), n, 1}));
  EXPECT_EQ(driver.stream, &stream);
  EXPECT_EQ(driver.grid[0], unsigned(call.grid()[0]));

  // Other tensors of the same kind need nothing but their addresses.
  void *data[16] = {memory[3], memory[4], memory[5]};
  prepared.launchOn(data, nullptr);
  EXPECT_EQ(driver.words, (std::vector<int64_t>{word(memory[3]), n, 1, word(memory[4]), n, 1, word(memory[5]), n, 1}));
  EXPECT_EQ(driver.stream, nullptr);
}

TEST(CudaLaunch, ATensorIsDescribedToTheCopyEngineOnce) {
  cuda::ContextScope scope(0);
  fake::Recorded &driver = fake::driver();
  const Target target = parseTarget("sm_90a");
  const PreparedCall prepared = product(0, 1, 2).prepare(target);
  const MachineCode code = compile(product(0, 1, 2).trace(), target);
  ASSERT_GE(code.tensorMaps.size(), 2u) << "expected matmul's operands to travel by the copy engine";
  driver.words.resize(prepared.words.size() + 3); // the grid follows
  driver.maps.resize(code.tensorMaps.size());
  auto expectMaps = [&](std::span<void *const> data) {
    for (size_t i = 0; i < code.tensorMaps.size(); ++i) {
      const TensorMapRequest &request = code.tensorMaps[i];
      const void *address = reinterpret_cast<const void *>(driver.words[request.word]);
      EXPECT_EQ(driver.maps[i].address, address) << i;
      EXPECT_EQ(int64_t(driver.maps[i].extents[0]), driver.words[request.word + request.rank]) << i;
      EXPECT_NE(std::ranges::find(data, address), data.end()) << i;
    }
  };
  const int before = driver.encoded;
  const std::vector<void *> first = dataOf(0, 1, 2), second = dataOf(3, 1, 4);
  prepared.launchOn(first);
  expectMaps(first);
  EXPECT_EQ(driver.encoded - before, int(code.tensorMaps.size()));
  for (int round = 0; round < 3; ++round) {
    prepared.launchOn(second);
    expectMaps(second);
    prepared.launchOn(first);
    expectMaps(first);
  }
  EXPECT_LT(driver.encoded - before, 2 * int(code.tensorMaps.size())); // b is the same in both
  // The same address with other extents is another map.
  Call smaller(kernelNamed("matmul"));
  smaller.set("a", TensorRef(memory[0], DType::bf16, {128, 32}, Dims{64, 1}, gpu));
  smaller.set("b", matrix(1, 32, 128));
  smaller.set("out", matrix(2, 128, 128));
  smaller.resolve();
  smaller.prepare(target).launch();
  expectMaps(first);
}

TEST(CudaLaunch, ThePrimaryContextNeedsNoQuestions) {
  cuda::ContextScope outer(0);
  const int before = fake::driver().deviceQuestions;
  for (int i = 0; i < 10; ++i)
    cuda::ContextScope inner(0);
  EXPECT_EQ(fake::driver().deviceQuestions, before);
}

// Launches overlap: where more than two blocks fit, the hardware would put three where one runs out first.
TEST(CudaLaunch, FewProgramsAreSpreadOverTheMultiprocessors) {
  cuda::ContextScope scope(0);
  auto sharedBytesOf = [](int64_t n) {
    Call call(kernelNamed("matmul"));
    call.set("a", matrix(0, 1, 4096));
    call.set("b", matrix(1, 4096, n));
    call.set("out", matrix(2, 1, n));
    call.set("b_transposed", int64_t{1});
    call.resolve();
    const PreparedCall prepared = call.prepare(parseTarget("sm_90a"));
    fake::driver().words.clear();
    fake::driver().maps.clear();
    prepared.launch(nullptr);
    return int64_t(fake::driver().sharedBytes);
  };
  constexpr int64_t perMultiprocessor = 233472, reserved = 1024;
  const int64_t few = sharedBytesOf(14336), many = sharedBytesOf(143360);
  EXPECT_EQ(perMultiprocessor / (few + reserved), 2);
  EXPECT_GT(perMultiprocessor / (many + reserved), 2);
}
