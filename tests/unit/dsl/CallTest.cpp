// What a call checks of its arguments, and the names of extents that it works out.
#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Kernel.h"

#include <gtest/gtest.h>

namespace bitloom::test {

template <class T> struct Gemv {
  static constexpr auto name = "test_gemv";
  static constexpr auto summary = "packed weights times x";
  static constexpr auto tests = "n=3 k=32; n=1 k=64 bits=2", benchmarks = "n=4096 k=4096";

  View<const u8, 2> weights{"n, k * bits / 8"};
  View<const T, 1> x{"k"};
  View<T, 1> out{"n"};
  Param<f32> scale = 0.5f;
  Meta<int> bits = 4;
  Meta<int> block = "min(next_pow2(k), 128)";
  BITLOOM_PARAMS(weights, x, out, scale, bits, block)

  Grid grid() const { return {out.extent(0), ceil_div(x.extent(0), block)}; }
  void operator()() const {}
};
static const KernelRow &gemv() {
  static const KernelRow row = detail::rowOf<Gemv<f32>, Gemv<f16>>(__FILE__);
  return row;
}

// Tensors for n = 3, k = 32, which a test changes.
struct Arguments {
  TensorRef weights{memory, DType::u8, {3, 16}}, x{memory, DType::f32, {32}}, out{memory, DType::f32, {3}};

  Call call() const {
    Call call(gemv());
    call.set("weights", weights);
    call.set("x", x);
    call.set("out", out);
    return call;
  }
  std::string error() const {
    try {
      call().resolve();
    } catch (const UserError &error) {
      return error.what();
    }
    return "";
  }

private:
  alignas(16) static inline char memory[4096];
};

TEST(Call, Registration) {
  const KernelRow &row = gemv();
  EXPECT_EQ(row.name, "test_gemv");
  EXPECT_EQ(row.tests, (std::vector<std::string>{"n=3 k=32", "n=1 k=64 bits=2"}));
  ASSERT_EQ(row.variants.size(), 2u);
  const std::vector<Parameter> &parameters = row.variants[1].parameters;
  ASSERT_EQ(parameters.size(), 6u);
  EXPECT_EQ(parameters[0].name, "weights");
  EXPECT_EQ(parameters[0].shape, (std::vector<std::string>{"n", "k * bits / 8"}));
  EXPECT_FALSE(parameters[0].output);
  EXPECT_EQ(parameters[1].dtype, DType::f16);
  EXPECT_TRUE(parameters[2].output);
  EXPECT_EQ(parameters[3].kind, Parameter::Kind::Scalar);
  EXPECT_EQ(parameters[5].expression, "min(next_pow2(k), 128)");
}

TEST(Call, NamesOfExtentsAndDefaults) {
  Call call = Arguments().call();
  call.resolve();
  EXPECT_EQ(call.names(), (std::map<std::string, int64_t>{{"n", 3}, {"k", 32}, {"bits", 4}, {"block", 32}}));
  EXPECT_EQ(call.grid(), (std::array<int64_t, 3>{3, 1, 1}));
  EXPECT_EQ(call.minimalBytes(), 3 * 16 + 32 * 4 + 3 * 4);
}

// Waking a thread takes as long as to work through some 32 KiB.
TEST(Call, SmallWorkIsOneThreads) {
  Arguments arguments;
  Call small = arguments.call();
  small.resolve();
  EXPECT_GE(small.prepare(hostTarget()).grain, 3) << "all three programs";
  arguments.weights.extents = {8192, 4096};
  arguments.weights.strides = {4096, 1};
  arguments.x.extents = arguments.out.extents = {8192};
  Call large = arguments.call();
  large.resolve();
  EXPECT_EQ(large.prepare(hostTarget()).grain, 512) << "of 524288, for 32 MiB and 64 KiB";
}

TEST(Call, OutputsAreMadeFromTheNames) {
  Call call(gemv());
  call.chooseVariant(DType::u8); // the first view's, which both have: the first
  call.setSizes({{"n", 5}, {"k", 64}, {"bits", 2}});
  call.resolve();
  auto missing = call.missingViews();
  ASSERT_EQ(missing.size(), 3u);
  EXPECT_EQ(missing[0].extents, (Dims{5, 16}));
  EXPECT_EQ(missing[1].extents, (Dims{64}));
  EXPECT_EQ(missing[2].name, "out");
  EXPECT_FALSE(call.complete());
}

struct Scaled {
  static constexpr auto name = "test_scaled";
  static constexpr auto summary = "an extent that inputs have as a factor only";
  static constexpr auto tests = "n=3", benchmarks = "n=4096";

  View<const f32, 1> scales{"n * max(128 / group, 1)"};
  View<const f32, 1> bias{"n * biased"};
  View<f32, 1> out{"n"};
  Meta<int> group = 128;
  Meta<bool> biased = "bias.given";
  Meta<int> block = "next_pow2(n)";
  BITLOOM_PARAMS(scales, bias, out, group, biased, block)

  Grid grid() const { return {ceil_div(out.extent(0), block)}; }
  void operator()() const {}
};

// No view that is given has it alone.
TEST(Call, ANameMayBeAFactor) {
  static const KernelRow row = detail::rowOf<Scaled>(__FILE__);
  alignas(16) static char memory[4096];
  auto callWith = [&](int64_t scales, int64_t group) {
    Call call(row);
    call.set("scales", TensorRef(memory, DType::f32, {scales}));
    call.set("group", group);
    return call;
  };
  for (auto [scales, group, block] : {std::array<int64_t, 3>{52, 32, 16}, {17, 128, 32}, {17, 256, 32}}) {
    Call call = callWith(scales, group);
    call.resolve();
    const int64_t n = group < 128 ? scales / (128 / group) : scales;
    EXPECT_EQ(call.names().at("n"), n);
    EXPECT_EQ(call.names().at("block"), block);
    EXPECT_EQ(call.missingViews().back().extents, (Dims{n}));
  }
  EXPECT_THROW(callWith(51, 32).resolve(), UserError) << "no multiple of four";
}

struct Tuned {
  static constexpr auto name = "test_tuned";
  static constexpr auto summary = "a default that depends on the target";
  static constexpr auto tests = "n=100", benchmarks = "n=4096";

  View<f32, 1> out{"n"};
  Meta<int> block = "max(1, ceil_div(n, max(multiprocessors, 1)))";
  BITLOOM_PARAMS(out, block)

  Grid grid() const { return {ceil_div(out.extent(0), block)}; }
  void operator()() const {}
};

TEST(Call, DefaultsKnowTheMultiprocessorsOfTheTarget) {
  static const KernelRow row = detail::rowOf<Tuned>(__FILE__);
  auto blockFor = [](const char *target) {
    Call call(row);
    call.setSizes({{"n", 1320}});
    if (target)
      call.tuneFor(parseTarget(target));
    call.resolve();
    return call.names().at("block");
  };
  EXPECT_EQ(blockFor("sm_90a"), 10);
  EXPECT_EQ(blockFor("sm_80"), 13);
  EXPECT_EQ(blockFor("aarch64"), 1320);
  EXPECT_EQ(blockFor(nullptr), 1320); // of tensors on the host
}

TEST(Call, TheVariantIsThatOfTheTensors) {
  Arguments arguments;
  arguments.x.dtype = arguments.out.dtype = DType::f16;
  Call call = arguments.call();
  call.resolve();
  EXPECT_EQ(call.variant().parameters[2].dtype, DType::f16);
}

TEST(CallErrors, Extents) {
  Arguments arguments;
  arguments.out = TensorRef(arguments.out.data, DType::f32, {4});
  EXPECT_EQ(arguments.error(),
            "test_gemv: argument out: expected extent 3 in dimension 0 (n, as weights in dimension 0), got 4");
  arguments = {};
  arguments.weights = TensorRef(arguments.weights.data, DType::u8, {3, 17});
  EXPECT_EQ(arguments.error(), "test_gemv: argument weights: expected extent 16 in dimension 1 (k * bits / 8), got 17");
}

TEST(CallErrors, Dtypes) {
  Arguments arguments;
  arguments.x.dtype = DType::i32;
  EXPECT_EQ(arguments.error(), "test_gemv: argument x: expected dtype f32, f16, got i32");
  arguments = {};
  arguments.out.dtype = DType::f16; // x decides
  EXPECT_EQ(arguments.error(), "test_gemv: argument out: expected dtype f32, got f16");
}

TEST(CallErrors, RankDeviceAndStride) {
  Arguments arguments;
  arguments.x = TensorRef(arguments.x.data, DType::f32, {1, 32});
  EXPECT_EQ(arguments.error(), "test_gemv: argument x: expected 1 dimensions, got 2");
  arguments = {};
  arguments.out.device = {Device::Kind::Cuda, 1};
  EXPECT_EQ(arguments.error(), "test_gemv: argument out: expected a tensor on cpu as the others, got one on cuda:1");
  arguments = {};
  arguments.out = TensorRef(arguments.out.data, DType::f32, {3}, {0});
  EXPECT_EQ(arguments.error(),
            "test_gemv: argument out: expected distinct elements to write, got stride 0 in dimension 0");
}

static std::string errorOf(const std::function<void(Call &)> &action) {
  Call call(gemv());
  try {
    action(call);
  } catch (const UserError &error) {
    return error.what();
  }
  return "";
}

TEST(CallErrors, NamesAndKinds) {
  EXPECT_EQ(errorOf([](Call &call) { call.set("y", 1.0); }),
            "test_gemv: expected an argument named weights, x, out, scale, bits, block, got 'y'");
  EXPECT_EQ(errorOf([](Call &call) { call.set("x", 1.0); }), "test_gemv: argument x: expected a tensor, got a number");
  EXPECT_EQ(errorOf([](Call &call) { call.set("scale", TensorRef()); }),
            "test_gemv: argument scale: expected a number, got a tensor");
  EXPECT_EQ(errorOf([](Call &call) { call.set("block", 1.5); }),
            "test_gemv: argument block: expected an integer, got 1.500000");
}

TEST(CallErrors, WhatIsNotGiven) {
  EXPECT_EQ(errorOf([](Call &call) {
              call.setSizes({{"n", 3}});
              call.resolve();
            }),
            "test_gemv: argument weights: expected a tensor, got none");
}

struct Affine {
  static constexpr auto name = "test_affine";
  static constexpr auto summary = "x · w + shift";
  static constexpr auto tests = "m=3 k=4 n=5", benchmarks = "m=3 k=4 n=5";
  static constexpr auto conditions = "n % 5 == 0";

  View<const f32, 2> w{"k, n"};
  View<const f32, 1> shift{"n * shifted"};
  View<f32, 2> out{"k, n"};
  Meta<bool> shifted = "shift.given";
  Meta<bool> w_transposed = "w.transposed";
  Meta<int> kind = Meta<int>::oneOf("plain, odd");
  BITLOOM_PARAMS(w, shift, out, shifted, w_transposed, kind)

  Grid grid() const { return {w.extent(0), w.extent(1)}; }
  void operator()() const { out(span(0, 4), span(0, 8)) = w(span(0, 4), span(0, 8)); }
};
static const KernelRow &affine() {
  static const KernelRow row = detail::rowOf<Affine>(__FILE__);
  return row;
}
static Call affineCall(const Dims &extents, const Dims &strides) {
  static float memory[64];
  Call call(affine());
  call.set("w", TensorRef(memory, DType::f32, extents, strides));
  call.set("out", TensorRef(memory, DType::f32, extents));
  return call;
}

TEST(CallFacts, AViewThatLiesTransposedIsPassedAsItLies) {
  struct {
    Dims extents, strides;
    bool transposed;
  } cases[] = {
      {{3, 5}, {5, 1}, false}, {{3, 5}, {1, 3}, true},  {{3, 5}, {1, 7}, true},  {{3, 5}, {2, 6}, false},
      {{1, 5}, {1, 1}, false}, {{1, 5}, {1, 3}, false}, {{0, 5}, {1, 1}, false},
  };
  for (const auto &[extents, strides, transposed] : cases) {
    Call call = affineCall(extents, strides);
    call.resolve();
    EXPECT_EQ(call.isTransposed(0), transposed) << strides[0] << ", " << strides[1];
    EXPECT_EQ(call.names().at("w_transposed"), transposed);
    EXPECT_EQ(call.grid(), (std::array<int64_t, 3>{extents[0], extents[1], 1}));
    const std::vector<int64_t> words = call.words();
    const int first = transposed ? 1 : 0;
    EXPECT_EQ(std::vector(words.begin() + 1, words.begin() + 5),
              (std::vector{extents[first], extents[1 - first], strides[first], strides[1 - first]}));
  }
}

TEST(CallFacts, TensorsWithoutGapsLieAsAsked) {
  Call call(affine());
  call.setSizes({{"k", 3}, {"n", 5}, {"w_transposed", 1}});
  call.resolve();
  const std::vector<Call::Missing> missing = call.missingViews(); // shift is not given: empty
  ASSERT_EQ(missing.size(), 2u);
  EXPECT_EQ(missing[0].extents, (Dims{3, 5}));
  EXPECT_EQ(missing[0].strides, (Dims{1, 3}));
  EXPECT_EQ(missing[1].strides, (Dims{5, 1}));
}

TEST(CallFacts, WhatIsGiven) {
  static float memory[5];
  Call call = affineCall({3, 5}, {5, 1});
  call.resolve();
  EXPECT_EQ(call.names().at("shifted"), 0);
  EXPECT_TRUE(call.complete());
  call = affineCall({3, 5}, {5, 1});
  call.set("shift", TensorRef(memory, DType::f32, {5}));
  call.resolve();
  EXPECT_EQ(call.names().at("shifted"), 1);
}

static std::string affineError(Call call) {
  try {
    call.resolve();
  } catch (const UserError &error) {
    return error.what();
  }
  return "";
}

TEST(CallErrors, ConditionsAndChoices) {
  EXPECT_EQ(affineError(affineCall({3, 5}, {5, 1})), "");
  EXPECT_EQ(affineError(affineCall({3, 4}, {4, 1})), "test_affine: expected n % 5 == 0, got n = 4");
  for (int64_t kind : {-1, 2}) {
    Call call = affineCall({3, 5}, {5, 1});
    call.set("kind", kind);
    EXPECT_EQ(affineError(call),
              "test_affine: argument kind: expected plain, odd or a number below 2, got " + std::to_string(kind));
  }
}

TEST(Registry, UnknownKernelsAreSuggested) {
  registerKernel(gemv());
  try {
    kernelNamed("test_gemw");
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    EXPECT_EQ(std::string(error.what()).find("unknown kernel 'test_gemw': did you mean 'test_gemv'? expected one of "),
              0u)
        << error.what();
  }
}

} // namespace bitloom::test
