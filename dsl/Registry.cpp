#include "bitloom/dsl/Registry.h"

#include "bitloom/lib/support/Suggest.h"

#include <dlfcn.h>

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
