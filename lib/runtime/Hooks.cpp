#include "bitloom/lib/runtime/Hooks.h"

#include "bitloom/lib/support/Error.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <mutex>
#include <set>

namespace bitloom {

static thread_local LaunchFailure *current = nullptr;

// The file's name lives as long as the process: errors outlive kernels.
static const char *interned(std::string_view name) {
  static std::mutex mutex;
  static auto &names = *new std::set<std::string, std::less<>>;
  std::lock_guard lock(mutex);
  return names.emplace(name).first->c_str();
}

void LaunchFailure::raise() const {
  const char *text = first.load(std::memory_order_acquire);
  if (!text)
    return;
  std::string_view message = text;
  for (size_t colon = message.find(':'); colon != message.npos; colon = message.find(':', colon + 1)) {
    SourceLocation where;
    const char *line = text + colon + 1;
    auto [end, error] = std::from_chars(line, text + message.size(), where.line);
    if (error != std::errc() || !std::string_view(end).starts_with(": "))
      continue;
    where.file = interned(message.substr(0, colon));
    throw UserError(where, end + 2);
  }
  throw UserError(text);
}

AssertScope::AssertScope(LaunchFailure &launch) : outer(current) { current = &launch; }
AssertScope::~AssertScope() { current = outer; }

// The shortest text that reads back as the same number.
static void appendElement(std::string &text, DType dtype, const unsigned char *element) {
  char digits[32];
  std::to_chars_result end{};
  if (isFloat(dtype)) {
    double value = readAsDouble(dtype, element);
    end = dtype == DType::f64 ? std::to_chars(digits, std::end(digits), value)
                              : std::to_chars(digits, std::end(digits), float(value));
  } else {
    std::uint64_t bits = 0;
    std::memcpy(&bits, element, size_t(bytesOf(dtype)));
    int unused = 64 - 8 * bytesOf(dtype);
    end = isSigned(dtype) ? std::to_chars(digits, std::end(digits), int64_t(bits << unused) >> unused)
                          : std::to_chars(digits, std::end(digits), bits);
  }
  text.append(digits, end.ptr);
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
  std::string text = std::string(label) + " = ";
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
