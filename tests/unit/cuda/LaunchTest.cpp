// Launches on a GPU as the driver sees them. This program is linked with a driver that records them.
#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Kernel.h"
#include "bitloom/dsl/Realigned.h"
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

// The copy engine takes rows at multiples of 16 bytes: a large product of others is that of copies.
TEST(CudaLaunch, LargeProductsOfUnalignedRowsAreThoseOfCopies) {
  cuda::ContextScope scope(0);
  auto launches = [](int64_t m, int64_t n, int64_t k) {
    Call call(kernelNamed("matmul"));
    const TensorRef weight = matrix(1, n, k);
    call.set("a", matrix(0, m, k));
    call.set("b", TensorRef(weight.data, weight.dtype, {k, n}, {1, k}, gpu));
    call.set("out", matrix(2, m, n));
    call.resolve();
    const PreparedCall prepared = call.prepare(parseTarget("sm_90a"));
    fake::Recorded &driver = fake::driver();
    driver.words.resize(20); // as many as the copy has
    driver.maps.clear();
    const int before = driver.launches;
    prepared.launch(nullptr);
    return driver.launches - before;
  };
  EXPECT_EQ(launches(1024, 1024, 1024), 1);
  EXPECT_EQ(launches(1024, 1024, 1025), 2); // of a and b together, and the product
  EXPECT_EQ(launches(1024, 1025, 1024), 1); // results are stored where they belong
  EXPECT_EQ(launches(64, 64, 65), 1);       // too small
  EXPECT_EQ(launches(16, 65536, 1025), 2);  // b is read once: no use in copying it; a is little
}

// Any strides, elements of 1, 2 and 4 bytes.
TEST(CudaLaunch, CopiesOfRowsHaveTheirElements) {
  auto copies = [](auto element, int64_t rows, int64_t columns, int64_t stride, int64_t step, int64_t pitch) {
    using T = decltype(element);
    std::vector<T> from(size_t(rows * stride + step * columns)), to(size_t(rows * pitch), T(77));
    for (size_t i = 0; i < from.size(); ++i)
      from[i] = T(i * 7 % 127);
    Call call(copyRows());
    const TensorRef x(from.data(), dtypeOf<T>, {rows, columns}, {stride, step});
    const TensorRef out(to.data(), dtypeOf<T>, {rows, columns}, {pitch, 1});
    auto withoutRows = [](TensorRef matrix) {
      matrix.extents[0] = 0;
      return matrix;
    };
    call.set("x", x);
    call.set("out", out);
    call.set("more_x", withoutRows(x));
    call.set("more_out", withoutRows(out));
    call.resolve();
    call.launch();
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < pitch; ++j)
        ASSERT_EQ(to[size_t(i * pitch + j)], j < columns ? from[size_t(i * stride + j * step)] : T(77))
            << i << " " << j;
  };
  copies(i8(), 3, 4097, 4097, 1, 4224);
  copies(i16(), 17, 199, 201, 1, 256);
  copies(i16(), 17, 199, 1, 17, 256);
  copies(i32(), 5, 1, 3, 1, 32);
}
