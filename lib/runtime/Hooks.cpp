#include "bitloom/lib/runtime/Hooks.h"

#include "bitloom/lib/support/Error.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bitloom {

static thread_local LaunchFailure *current = nullptr;

void LaunchFailure::raise() const {
  if (const char *message = first.load(std::memory_order_acquire))
    throw UserError(message);
}

AssertScope::AssertScope(LaunchFailure &launch) : outer(current) { current = &launch; }
AssertScope::~AssertScope() { current = outer; }

// As short as reads back the same where that is cheap to say: 9 and 17 digits determine an f32 and an f64.
static void appendElement(std::string &text, DType dtype, const unsigned char *element) {
  char digits[40];
  if (isFloat(dtype)) {
    std::snprintf(digits, sizeof digits, dtype == DType::f64 ? "%.17g" : "%.9g", readAsDouble(dtype, element));
  } else {
    std::uint64_t bits = 0;
    std::memcpy(&bits, element, size_t(bytesOf(dtype)));
    int unused = 64 - 8 * bytesOf(dtype);
    if (isSigned(dtype))
      std::snprintf(digits, sizeof digits, "%" PRId64, int64_t(bits << unused) >> unused);
    else
      std::snprintf(digits, sizeof digits, "%" PRIu64, bits);
  }
  text += digits;
}

static void appendRows(std::string &text, DType dtype, const unsigned char *&next, std::span<const int64_t> shape) {
  if (shape.empty()) {
    appendElement(text, dtype, next);
    next += bytesOf(dtype);
    return;
  }
  text += "[";
  for (int64_t i = 0; i < shape[0]; ++i) {
    if (i)
      text += ", ";
    appendRows(text, dtype, next, shape.subspan(1));
  }
  text += "]";
}

std::string printedTile(std::string_view label, DType dtype, const void *data, std::span<const int64_t> shape) {
  std::string text = std::string(label) + ": " + std::string(nameOf(dtype));
  if (!shape.empty()) {
    text += "[";
    for (size_t i = 0; i < shape.size(); ++i)
      text += (i ? ", " : "") + std::to_string(shape[i]);
    text += "]";
  }
  text += " = ";
  auto *next = static_cast<const unsigned char *>(data);
  appendRows(text, dtype, next, shape);
  return text + "\n";
}

} // namespace bitloom

using namespace bitloom;

void bitloom_rt_assert(const char *message) {
  if (!current) {
    std::fprintf(stderr, "%s\n", message);
    std::abort();
  }
  const char *none = nullptr;
  current->first.compare_exchange_strong(none, message, std::memory_order_release, std::memory_order_relaxed);
}

void bitloom_rt_print(const char *label, int32_t dtype, const void *data, int64_t rank, const int64_t *shape) {
  std::string text = printedTile(label, DType(dtype), data, {shape, size_t(rank)});
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}
