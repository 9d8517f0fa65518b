#include "bitloom/dsl/Registry.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Expression.h"
#include "bitloom/lib/support/Suggest.h"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <mutex>

namespace bitloom {

// Built at first use: rows register while static variables are initialised, in no order.
static std::map<std::string, std::unique_ptr<KernelRow>, std::less<>> &rows() {
  static std::map<std::string, std::unique_ptr<KernelRow>, std::less<>> all;
  return all;
}
static std::mutex mutex;

void registerKernel(KernelRow row) {
  std::lock_guard lock(mutex);
  auto &entry = rows()[row.name];
  if (!entry)
    entry = std::make_unique<KernelRow>(std::move(row)); // the same library may be loaded twice
}

std::string nameOf(const KernelRow &kernel, size_t variant) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < kernel.variants[variant].parameters.size(); ++i) {
    const Parameter &parameter = kernel.variants[variant].parameters[i];
    bool differs = false;
    for (const Variant &other : kernel.variants)
      differs |= other.parameters[i].dtype != parameter.dtype;
    bool first = kernel.variants.size() == 1 && parts.empty() && parameter.kind == Parameter::Kind::View;
    std::string name(nameOf(parameter.dtype));
    if ((differs || first) && std::find(parts.begin(), parts.end(), name) == parts.end())
      parts.push_back(std::move(name));
  }
  return joined(parts, "/");
}

std::vector<Tunable> parseTunables(std::string_view text) {
  std::vector<Tunable> tunables;
  auto wrong = [&] { return InternalError("expected 'name=1,2; other=3', got '" + std::string(text) + "'"); };
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find(';'), rest.size());
    std::string_view item = rest.substr(0, end);
    item.remove_prefix(std::min(item.find_first_not_of(' '), item.size()));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const size_t equals = item.find('=');
    if (equals == item.npos)
      throw wrong();
    Tunable tunable{std::string(item.substr(0, equals)), {}};
    for (const std::string &value : splitList(item.substr(equals + 1))) {
      int64_t number = 0;
      auto [last, error] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (error != std::errc() || last != value.data() + value.size())
        throw wrong();
      tunable.values.push_back(number);
    }
    tunables.push_back(std::move(tunable));
  }
  return tunables;
}

std::vector<Realignment> parseRealignments(std::string_view text) {
  std::vector<Realignment> realignments;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find(';'), rest.size());
    std::string_view item = rest.substr(0, end);
    item.remove_prefix(std::min(item.find_first_not_of(' '), item.size()));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const size_t colon = item.find(':');
    if (colon == item.npos)
      throw InternalError("expected 'view: condition; other: condition', got '" + std::string(text) + "'");
    realignments.push_back({std::string(item.substr(0, colon)), std::string(item.substr(colon + 1))});
  }
  return realignments;
}

std::vector<const KernelRow *> allKernels() {
  std::lock_guard lock(mutex);
  std::vector<const KernelRow *> all;
  for (const auto &[name, row] : rows())
    all.push_back(row.get());
  return all;
}

const KernelRow &kernelNamed(std::string_view name) {
  std::lock_guard lock(mutex);
  if (auto found = rows().find(name); found != rows().end())
    return *found->second;
  std::vector<std::string> names;
  for (const auto &[known, row] : rows())
    names.push_back(known);
  throw UserError("unknown kernel '" + std::string(name) + "'" + expectedOneOf(name, names));
}

std::vector<const KernelRow *> loadKernels(const std::string &path) {
  std::vector<const KernelRow *> before = allKernels();
  if (!dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL))
    throw UserError("could not load kernels from '" + path + "': " + dlerror());
  std::vector<const KernelRow *> fresh;
  for (const KernelRow *row : allKernels())
    if (std::find(before.begin(), before.end(), row) == before.end())
      fresh.push_back(row);
  return fresh;
}

} // namespace bitloom
