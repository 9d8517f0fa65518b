// Each function over many arguments against the C library's in f64.
#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

using namespace bitloom;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Distance in units of the last place of `expected`, rounded to f32.
double ulps(float got, double expected) {
  if (std::isnan(expected) || std::isnan(got))
    return std::isnan(expected) == std::isnan(got) ? 0 : 1e9;
  float nearest = float(expected);
  if (std::isinf(nearest) || std::isinf(got))
    return nearest == got ? 0 : 1e9;
  float above = std::nextafter(std::fabs(nearest), infinity);
  double unit = std::isinf(above) ? std::ldexp(1.0, 104) : double(above) - std::fabs(nearest);
  return std::fabs(double(got) - expected) / unit;
}

struct Function {
  const char *name;
  double (*reference)(double);
  double maxUlps;
  float low, high; // of the arguments sampled evenly; all of f32 is sampled by its bits besides
};

std::vector<float> arguments(const Function &function) {
  std::mt19937 random(7);
  std::vector<float> x = {0.0f,    -0.0f,  1.0f,     -1.0f,     0.5f,          1e-40f,          -1e-40f,
                          3.4e38f, -3e38f, infinity, -infinity, std::nanf(""), 1.17549435e-38f, 1e-6f,
                          -1e-6f,  88.7f,  -87.5f,   -103.0f,   0.99999994f,   1.00000012f};
  std::uniform_real_distribution<float> inside(function.low, function.high);
  for (int i = 0; i < 200'000; ++i)
    x.push_back(inside(random));
  for (int i = 0; i < 200'000; ++i)
    x.push_back(std::bit_cast<float>(std::uint32_t(random())));
  return x;
}

class ExpandMath : public testing::TestWithParam<Function> {};

} // namespace

TEST_P(ExpandMath, IsAccurate) {
  const Function &function = GetParam();
  std::string body = "%y = math." + std::string(function.name) + " %x : vector<16xf32>";
  std::vector<float> x = arguments(function);
  for (const char *name : {"host", "x86-64"}) {
    Target target = parseTarget(name);
    if (!runsOnHost(target))
      continue;
    auto kernel = Executable::load(compile(Program::parse(elementwise(body)), target), target);
    std::vector<float> y = run(*kernel, x);
    double worst = 0;
    float where = 0;
    for (size_t i = 0; i < x.size(); ++i)
      if (double error = ulps(y[i], function.reference(x[i])); error > worst)
        worst = error, where = x[i];
    EXPECT_LE(worst, function.maxUlps) << name << ": " << function.name << "(" << where << ")";
    RecordProperty(name, std::to_string(worst));
    for (size_t i = 0; i < 2; ++i) // of zero, the sign counts too
      if (function.reference(x[i]) == 0)
        EXPECT_EQ(std::signbit(y[i]), std::signbit(function.reference(x[i]))) << function.name << " of zero " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Functions, ExpandMath,
    testing::Values(Function{"exp", std::exp, 1.1, -104, 89}, Function{"exp2", std::exp2, 1.1, -150, 128},
                    Function{"expm1", std::expm1, 2.0, -20, 20}, Function{"log", std::log, 1.0, 0, 4},
                    Function{"log2", std::log2, 2.0, 0, 4}, Function{"log10", std::log10, 2.0, 0, 4},
                    Function{"log1p", std::log1p, 2.0, -1, 4}, Function{"tanh", std::tanh, 3.0, -10, 10},
                    Function{"erf", std::erf, 2.0, -4.5, 4.5}, Function{"sin", std::sin, 1.6, -20, 20},
                    Function{"cos", std::cos, 1.6, -20, 20}, Function{"tan", std::tan, 3.5, -20, 20},
                    Function{"rsqrt", [](double x) { return 1 / std::sqrt(x); }, 1.5, 0, 100},
                    Function{"atan", std::atan, 1.0, -20, 20}, Function{"sinh", std::sinh, 2.0, -20, 20}),
    [](const auto &info) { return std::string(info.param.name); });
