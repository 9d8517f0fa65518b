#include "bitloom/lowering/Executable.h"

#include "bitloom/lib/runtime/DiskCache.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Backend.h"
#include "bitloom/lowering/BuildId.h"
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/IR/BuiltinOps.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace bitloom {

//===- Machine code as bytes --------------------------------------------------------------------------------------===//

namespace {
// Numbers as 8 bytes, strings as their length and bytes.
struct Writer {
  std::string bytes;
  void add(int64_t value) { bytes.append(reinterpret_cast<const char *>(&value), sizeof value); }
  void add(std::string_view text) {
    add(int64_t(text.size()));
    bytes += text;
  }
};

struct Reader {
  std::string_view bytes;
  bool good = true;
  int64_t number() {
    int64_t value = 0;
    if (bytes.size() < sizeof value)
      return good = false;
    std::memcpy(&value, bytes.data(), sizeof value);
    bytes.remove_prefix(sizeof value);
    return value;
  }
  std::string text() {
    int64_t size = number();
    if (size < 0 || size_t(size) > bytes.size()) {
      good = false;
      return "";
    }
    std::string value(bytes.substr(0, size_t(size)));
    bytes.remove_prefix(size_t(size));
    return value;
  }
};
} // namespace

std::string MachineCode::serialize() const {
  Writer writer;
  writer.add(entry);
  writer.add(threadsPerProgram);
  writer.add(sharedBytes);
  writer.add(int64_t(isPersistent));
  writer.add(blocksPerProgram);
  writer.add(workspaceBytes);
  writer.add(int64_t(tensorMaps.size()));
  for (const TensorMapRequest &map : tensorMaps) {
    for (int value : {map.word, map.rank, int(map.dtype), map.swizzle})
      writer.add(value);
    for (int32_t extent : map.box)
      writer.add(extent);
  }
  writer.add(int64_t(resources.has_value()));
  if (resources) {
    writer.add(resources->name);
    for (int value : {resources->registers, resources->stackBytes, resources->spillStoreBytes,
                      resources->spillLoadBytes, resources->sharedBytes, resources->barriers})
      writer.add(value);
  }
  writer.add(image);
  return std::move(writer.bytes);
}

std::optional<MachineCode> MachineCode::deserialize(std::string_view bytes) {
  Reader reader{bytes};
  MachineCode code;
  code.entry = reader.text();
  code.threadsPerProgram = int(reader.number());
  code.sharedBytes = int(reader.number());
  code.isPersistent = reader.number();
  code.blocksPerProgram = int(reader.number());
  code.workspaceBytes = int(reader.number());
  const int64_t maps = reader.number();
  for (int64_t i = 0; i < maps && reader.good; ++i) {
    TensorMapRequest &map = code.tensorMaps.emplace_back();
    map.word = int(reader.number());
    map.rank = int(reader.number());
    map.dtype = DType(reader.number());
    map.swizzle = int(reader.number());
    reader.good &= map.rank >= 1 && map.rank <= maxTensorMapRank;
    for (int d = 0; d < map.rank && reader.good; ++d)
      map.box.push_back(int32_t(reader.number()));
  }
  if (reader.number()) {
    KernelResources &resources = code.resources.emplace();
    resources.name = reader.text();
    for (int *value : {&resources.registers, &resources.stackBytes, &resources.spillStoreBytes,
                       &resources.spillLoadBytes, &resources.sharedBytes, &resources.barriers})
      *value = int(reader.number());
  }
  code.image = reader.text();
  if (!reader.good || !reader.bytes.empty() || code.entry.empty() || code.image.empty())
    return std::nullopt;
  return code;
}

//===- From program to executable ---------------------------------------------------------------------------------===//

std::shared_ptr<Executable> Executable::load(const MachineCode &code, const Target &target) {
  return backendOf(target.family).load(code, target);
}

// All that determines the machine code. Where an operation stands in the source does not, but for assertions, whose
// messages name it.
static Digest keyOf(const Program &program, const Target &target) {
  std::string lines;
  program.module().walk([&](tile::AssertOp op) {
    SourceLocation where = sourceOf(op.getLoc());
    lines += std::string(where.file) + ":" + std::to_string(where.line) + "\n";
  });
  return contentKey({"machine code 2", program.print(), lines, target.name, target.triple, target.cpu, target.features,
                     compilerBuildId(), backendOf(target.family).assemblerVersion()});
}

// What this process has loaded, and onto which device.
struct LoadedKey {
  Digest digest;
  void *device;
  auto operator<=>(const LoadedKey &) const = default;
};

// $BITLOOM_SPILLS says what becomes of code that keeps values in memory for want of registers, slow but right.
enum class Spills { Warn, Refuse, Allow };

static Spills spillPolicy() {
  const char *variable = std::getenv("BITLOOM_SPILLS");
  const std::string_view policy = variable ? variable : "";
  if (policy == "error")
    return Spills::Refuse;
  if (policy == "allow")
    return Spills::Allow;
  if (policy != "" && policy != "warn")
    throw UserError("BITLOOM_SPILLS: expected error, warn or allow, got '" + std::string(policy) + "'");
  return Spills::Warn;
}

static void judgeSpills(const MachineCode &code, const Target &target) {
  const Spills policy = spillPolicy();
  std::optional<UserError> spill = policy == Spills::Allow ? std::nullopt : spillError(code, target);
  if (!spill)
    return;
  if (policy == Spills::Refuse)
    throw *spill;
  const SourceLocation &where = spill->location();
  const std::string place = where.known() ? where.file + (":" + std::to_string(where.line)) + ": " : "";
  std::fprintf(stderr, "%swarning: %s\n", place.c_str(), spill->message().c_str());
}

static std::shared_ptr<Executable> loadCached(const Digest &key, const Target &target) {
  std::optional<std::string> bytes = diskCache().get(key);
  if (!bytes)
    return nullptr;
  std::optional<MachineCode> code = MachineCode::deserialize(*bytes);
  if (!code || (spillPolicy() == Spills::Refuse && spillError(*code, target))) // compiling it anew names the line
    return nullptr;
  try {
    return Executable::load(*code, target);
  } catch (const UserError &) {
    throw; // this machine cannot run the target, whatever the code
  } catch (const std::exception &) {
    return nullptr; // whole, but not what we would have written: build it anew
  }
}

namespace {
// By key and device. Never destroyed, like the code in it.
class LoadedCode {
public:
  std::shared_ptr<Executable> find(const LoadedKey &key) {
    std::lock_guard lock(mutex);
    auto found = loaded.find(key);
    return found == loaded.end() ? nullptr : found->second;
  }
  // Of two that compile the same at a time, the first to finish stays.
  std::shared_ptr<Executable> add(const LoadedKey &key, std::shared_ptr<Executable> executable) {
    std::lock_guard lock(mutex);
    return loaded.emplace(key, std::move(executable)).first->second;
  }

private:
  std::mutex mutex;
  std::map<LoadedKey, std::shared_ptr<Executable>> loaded;
};
} // namespace

static LoadedCode &loadedCode() {
  static auto &code = *new LoadedCode;
  return code;
}

// In the device's context, which is current.
static std::shared_ptr<Executable> buildAs(const LoadedKey &key, const Program &program, const Target &target) {
  if (auto found = loadedCode().find(key))
    return found;
  std::shared_ptr<Executable> executable = loadCached(key.digest, target);
  if (!executable) {
    MachineCode code = compile(program, target);
    judgeSpills(code, target);
    executable = Executable::load(code, target);
    diskCache().put(key.digest, code.serialize());
  }
  return loadedCode().add(key, std::move(executable));
}

MachineCode compileOrFind(const Program &program, const Target &target) {
  const Digest key = keyOf(program, target);
  if (std::optional<std::string> bytes = diskCache().get(key))
    if (std::optional<MachineCode> code = MachineCode::deserialize(*bytes))
      return std::move(*code);
  MachineCode code = compile(program, target);
  diskCache().put(key, code.serialize());
  return code;
}

std::shared_ptr<Executable> build(const Program &program, const Target &target) {
  const std::shared_ptr<void> device = backendOf(target.family).enterDevice();
  return buildAs({keyOf(program, target), device.get()}, program, target);
}

std::shared_ptr<Executable> build(const std::string &request, const std::function<Program()> &trace,
                                  const Target &target) {
  const Backend &backend = backendOf(target.family);
  const std::shared_ptr<void> device = backend.enterDevice();
  // What lies under a request is the key of the machine code.
  const Digest under = contentKey({"request 1", request, target.name, target.triple, target.cpu, target.features,
                                   compilerBuildId(), backend.assemblerStamp()});
  if (std::optional<std::string> bytes = diskCache().get(under); bytes && bytes->size() == sizeof(Digest)) {
    LoadedKey key{{}, device.get()};
    std::memcpy(key.digest.data(), bytes->data(), sizeof(Digest));
    if (auto found = loadedCode().find(key))
      return found;
    if (auto executable = loadCached(key.digest, target))
      return loadedCode().add(key, std::move(executable));
  }
  const Program program = trace();
  const LoadedKey key{keyOf(program, target), device.get()};
  std::shared_ptr<Executable> executable = buildAs(key, program, target);
  diskCache().put(under, {reinterpret_cast<const char *>(key.digest.data()), sizeof(Digest)});
  return executable;
}

} // namespace bitloom
