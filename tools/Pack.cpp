#include "bitloom/lib/packing/PackedFile.h"
#include "bitloom/lib/packing/PackingFor.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/tools/Checkpoint.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/Table.h"
#include "bitloom/tools/WeightFiles.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>

#include <unistd.h>

namespace bitloom::tools {

namespace {

// One line on a terminal that says how far the work is; elsewhere nothing.
class Progress {
public:
  explicit Progress(int64_t totalBytes) : total(totalBytes), shows(isatty(STDERR_FILENO)) {}
  ~Progress() { clear(); }

  // `bytes` of the array in hand are done; the others' were added by finish().
  void show(const std::string &name, int64_t bytes) {
    const auto now = Clock::now();
    if (!shows || (drawn && now - last < std::chrono::milliseconds(100)))
      return;
    last = now;
    drawn = true;
    const double share = total ? double(done + bytes) / double(total) : 1;
    std::fprintf(stderr, "\r\033[K%3.0f %%  %s GB/s  %.60s", 100 * share, fixed(rate(bytes), 2).c_str(), name.c_str());
  }
  void finish(int64_t bytes) { done += bytes; }
  void clear() {
    if (drawn)
      std::fputs("\r\033[K", stderr);
    drawn = false;
  }
  double rate(int64_t bytes = 0) const { return double(done + bytes) / 1e9 / std::max(seconds(), 1e-9); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - begun).count(); }

private:
  using Clock = std::chrono::steady_clock;
  const int64_t total;
  const bool shows;
  bool drawn = false;
  int64_t done = 0;
  Clock::time_point begun = Clock::now(), last;
};

std::vector<std::string> rowOf(const PackedTensor &tensor) {
  const double bytes = double(tensor.weight.size() + tensor.scales.size() + tensor.zeros.size());
  const double values = double(tensor.rows) * double(tensor.columns);
  return {tensor.name,
          std::to_string(tensor.rows) + " x " + std::to_string(tensor.columns),
          tensor.format.packing.toString(),
          std::to_string(std::min(tensor.format.group, tensor.columns)),
          std::string(nameOf(tensor.format.scales)) + (tensor.format.asymmetric ? ", zeros" : ""),
          fixed(bytes / 1e6, 2),
          values > 0 ? fixed(8 * bytes / values, 2) : ""};
}

void printTensors(const PackedFile &file) {
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "shape", "packing", "group", "scales", "MB", "bits a weight"}};
  for (const PackedTensor &tensor : file.tensors())
    rows.push_back(rowOf(tensor));
  std::fputs(tableOf(rows).c_str(), stdout);
}

DType scalesOf(const Arguments &arguments) {
  const std::string name = arguments.value("--scales", "f32");
  if (auto scales = dtypeNamed(name))
    return *scales;
  throw UsageError("option --scales: expected f32, f16 or bf16, got '" + name + "'");
}

// What is given as a kind, or the target whose packing is asked for: it decides the packing, and its kind is the
// file's.
std::optional<Target> targetOfPacking(const Arguments &arguments) {
  const std::string name = arguments.value("--target", "any");
  for (const char *kind : {"any", "x86", "aarch64", "gpu"})
    if (name == kind)
      return {};
  return parseTarget(name);
}

WeightFormat formatOf(const Arguments &arguments, const std::optional<Target> &target) {
  WeightFormat format;
  const int64_t largest = int64_t{1} << 30;
  const std::string group = arguments.value("--group", "128");
  format.group = group == "row" ? largest : arguments.number("--group", 128, 1, largest);
  format.asymmetric = arguments.has("--asymmetric");
  format.scales = scalesOf(arguments);
  if (arguments.has("--packing")) {
    if (arguments.has("--bits"))
      throw UsageError("expected --bits or --packing, got both");
    format.packing = Packing::parse(arguments.value("--packing"));
  } else if (target) {
    format.packing = packingFor(*target, int(arguments.number("--bits", 4, 1, 8)), 1);
  } else {
    // The order that vectors unpack with no shuffle, a block a group where that can be.
    const int64_t block = std::min<int64_t>(format.group & -format.group, 65536);
    format.packing = {.bits = int(arguments.number("--bits", 4, 1, 8)),
                      .order = Packing::Order::Planar,
                      .block = int(group == "row" ? 128 : std::max<int64_t>(block, 8))};
  }
  format.check();
  return format;
}

int listPacked(const Arguments &arguments) {
  for (const std::string &path : arguments.operands()) {
    auto file = PackedFile::open(path);
    file->verify();
    printTensors(*file);
    std::printf("%s: %zu tensors for %s, every checksum as it should be\n", path.c_str(), file->tensors().size(),
                file->target().c_str());
  }
  return 0;
}

std::string describe(const WeightArray &array) {
  return array.name + ": " + array.dtypeName + " of " + std::to_string(array.extents.size()) + " dimensions";
}

void printRate(const std::string &output, int64_t bytes, const char *what, const Progress &progress) {
  std::printf("%s: %s MB of %s in %s s, %s GB/s\n", output.c_str(), fixed(double(bytes) / 1e6, 2).c_str(), what,
              fixed(progress.seconds(), 2).c_str(), fixed(progress.rate(), 2).c_str());
}

// Quantises the matrices of floats among the arrays.
int packFloats(const std::vector<const WeightArray *> &arrays, const Arguments &arguments) {
  const std::optional<Target> machine = asUsage([&] { return targetOfPacking(arguments); });
  const WeightFormat format = asUsage([&] { return formatOf(arguments, machine); });
  const std::string output = arguments.value("-o"), only = arguments.value("--only"),
                    target = machine ? std::string(packedTargetOf(*machine)) : arguments.value("--target", "any");
  std::vector<const WeightArray *> matrices;
  int64_t bytes = 0;
  for (const WeightArray *array : arrays) {
    if (array->name.ends_with(".qweight"))
      throw UserError("tensor " + array->name + " is of a layer that was quantised already: expected " +
                      "--from gptq, gptq_v2 or awq");
    const bool known = array->dtype == DType::f16 || array->dtype == DType::bf16 || array->dtype == DType::f32;
    if (known && array->extents.size() == 2) {
      matrices.push_back(array);
      bytes += array->bytes;
    } else {
      std::fprintf(stderr, "left out, no matrix of f16, bf16 or f32: %s\n", describe(*array).c_str());
    }
  }
  if (matrices.empty())
    throw UserError("expected a matrix of f16, bf16 or f32 to pack" +
                    (only.empty() ? std::string() : " whose name holds '" + only + "'") + ", got none");

  PackedFileWriter writer = asUsage([&] { return PackedFileWriter(output, target); });
  Progress progress(bytes);
  for (const WeightArray *matrix : matrices) {
    const int64_t rows = matrix->extents[0], columns = matrix->extents[1], rowBytes = rows ? matrix->bytes / rows : 0;
    // Vectors of floats may be read from any address; the elements' types may not.
    std::vector<std::byte> aligned;
    const void *data = matrix->data;
    if (reinterpret_cast<uintptr_t>(data) % size_t(bytesOf(*matrix->dtype)) != 0) {
      aligned.assign(static_cast<const std::byte *>(data), static_cast<const std::byte *>(data) + matrix->bytes);
      data = aligned.data();
    }
    writer.add(matrix->name, format, data, *matrix->dtype, rows, columns,
               [&](int64_t done) { progress.show(matrix->name, done * rowBytes); });
    progress.finish(matrix->bytes);
  }
  writer.finish();
  progress.clear();
  printTensors(*PackedFile::open(output));
  printRate(output, bytes, "floats", progress);
  return 0;
}

// Packs anew what another program quantised.
int packCheckpoint(const std::vector<const WeightArray *> &arrays, const Arguments &arguments) {
  for (const char *option : {"--bits", "--group", "--asymmetric", "--packing"})
    if (arguments.has(option))
      throw UsageError("expected --from or " + std::string(option) +
                       ", got both: the layers say how they are quantised");
  const CheckpointKind kind = asUsage([&] { return checkpointKindNamed(arguments.value("--from")); });
  const DType scales = asUsage([&] {
    WeightFormat format;
    format.scales = scalesOf(arguments);
    format.check();
    return format.scales;
  });
  std::vector<const WeightArray *> others;
  const std::vector<CheckpointLayer> layers = layersOf(arrays, kind, scales, others);
  for (const WeightArray *array : others)
    std::fprintf(stderr, "left out, no low-bit weight: %s\n", describe(*array).c_str());
  if (layers.empty())
    throw UserError("expected a layer of " + arguments.value("--from") + " to pack, with a tensor .qweight, got none");

  const std::string output = arguments.value("-o");
  PackedFileWriter writer = asUsage([&] { return PackedFileWriter(output, arguments.value("--target", "any")); });
  int64_t bytes = 0;
  for (const CheckpointLayer &layer : layers)
    bytes += layer.words->bytes;
  Progress progress(bytes);
  for (const CheckpointLayer &layer : layers) {
    addLayer(layer, writer);
    progress.finish(layer.words->bytes);
    progress.show(layer.name, 0);
  }
  writer.finish();
  progress.clear();
  printTensors(*PackedFile::open(output));
  printRate(output, bytes, "weights", progress);
  return 0;
}

} // namespace

static int runPack(const Arguments &arguments) {
  if (arguments.has("--list"))
    return listPacked(arguments);
  if (!arguments.has("-o"))
    throw UsageError("expected -o FILE, to write to, or --list; got neither");
  const std::string only = arguments.value("--only");
  std::vector<std::shared_ptr<const WeightFile>> files;
  std::vector<const WeightArray *> arrays;
  for (const std::string &path : arguments.operands()) {
    files.push_back(WeightFile::open(path));
    for (const WeightArray &array : files.back()->arrays())
      if (array.name.find(only) != std::string::npos)
        arrays.push_back(&array);
  }
  return arguments.has("--from") ? packCheckpoint(arrays, arguments) : packFloats(arrays, arguments);
}

const Command packCommand = {
    .name = "pack",
    .operands = "FILE...",
    .leastOperands = 1,
    .mostOperands = 4096,
    .summary = "quantise and pack the matrices of .npy and .safetensors files",
    .description =
        "Writes one file of packed weights, which programs map into memory and use as it lies: from Python with\n"
        "bitloom.PackedFile, from C++ with lib/packing/PackedFile.h, from C with lib/packing/PackedFormat.h. Matrices\n"
        "of f16, bf16 and f32 are packed and all else is left out, said on stderr. Each row is cut into groups that\n"
        "share a scale: value = scale * q, q signed; with --asymmetric scale * (q - zero), q unsigned.\n"
        "\n"
        "Layers that GPTQ or AWQ quantised keep their numbers and are packed anew: <layer>.qweight, .qzeros and\n"
        ".scales become <layer>.weight. gptq is what AutoGPTQ writes, with zero points less one; gptq_v2 has them\n"
        "as they are.\n"
        "\n"
        "  bitloom pack model.safetensors --bits 4 --group 32 --scales f16 -o model.blw\n"
        "  bitloom pack model.safetensors --group 32 --scales bf16 --target host -o model.blw\n"
        "  bitloom pack model-1.safetensors model-2.safetensors --from gptq -o model.blw\n"
        "  bitloom pack --list model.blw\n",
    .options = {{"-o", "FILE", "what to write, all of it or nothing"},
                {"--bits", "NUMBER", "of a weight, 1 to 8; 4 without it"},
                {"--group", "NUMBER", "weights that share a scale, or row; 128 without it"},
                {"--asymmetric", "", "a zero point too for each group"},
                {"--scales", "DTYPE", "of scales and zero points: f32 (the default), f16 or bf16"},
                {"--packing", "TEXT",
                 "as `bitloom packing` takes it; planar without it, a block a group where it can be"},
                {"--target", "TARGET",
                 "what it is for: any (the default), x86, aarch64 or gpu, in any packing; or a CPU target, as host or\n"
                 "aarch64+dotprod, in the order in which its low_bit_matmul multiplies one row"},
                {"--from", "KIND", "gptq, gptq_v2 or awq: the layers were quantised so"},
                {"--only", "TEXT", "the tensors whose names hold it"},
                {"--list", "", "instead: check FILEs that it wrote, and show what they hold"}},
    .run = runPack,
};

} // namespace bitloom::tools
