#include "bitloom/lib/packing/PackedFile.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/Table.h"
#include "bitloom/tools/WeightFiles.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

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

WeightFormat formatOf(const Arguments &arguments) {
  WeightFormat format;
  const int64_t largest = int64_t{1} << 30;
  const std::string group = arguments.value("--group", "128");
  format.group = group == "row" ? largest : arguments.number("--group", 128, 1, largest);
  format.asymmetric = arguments.has("--asymmetric");
  if (auto scales = dtypeNamed(arguments.value("--scales", "f32")))
    format.scales = *scales;
  else
    throw UsageError("option --scales: expected f32, f16 or bf16, got '" + arguments.value("--scales") + "'");
  if (arguments.has("--packing")) {
    if (arguments.has("--bits"))
      throw UsageError("expected --bits or --packing, got both");
    format.packing = Packing::parse(arguments.value("--packing"));
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

} // namespace

static int runPack(const Arguments &arguments) {
  if (arguments.has("--list"))
    return listPacked(arguments);
  if (!arguments.has("-o"))
    throw UsageError("expected -o FILE, to write to, or --list; got neither");
  const WeightFormat format = asUsage([&] { return formatOf(arguments); });
  const std::string output = arguments.value("-o"), target = arguments.value("--target", "any"),
                    only = arguments.value("--only");
  std::vector<std::shared_ptr<const WeightFile>> files;
  for (const std::string &path : arguments.operands())
    files.push_back(WeightFile::open(path));

  std::vector<const WeightArray *> matrices;
  std::vector<std::string> skipped;
  int64_t bytes = 0;
  for (const auto &file : files)
    for (const WeightArray &array : file->arrays()) {
      if (array.name.find(only) == std::string::npos)
        continue;
      const bool known = array.dtype == DType::f16 || array.dtype == DType::bf16 || array.dtype == DType::f32;
      if (!known || array.extents.size() != 2) {
        skipped.push_back(array.name + ": " + array.dtypeName + " of " + std::to_string(array.extents.size()) +
                          " dimensions");
        continue;
      }
      matrices.push_back(&array);
      bytes += array.bytes;
    }
  for (const std::string &what : skipped)
    std::fprintf(stderr, "left out, no matrix of f16, bf16 or f32: %s\n", what.c_str());
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
  const double seconds = progress.seconds(), rate = progress.rate();
  progress.clear();
  printTensors(*PackedFile::open(output));
  std::printf("%s: %s MB of floats in %s s, %s GB/s\n", output.c_str(), fixed(double(bytes) / 1e6, 2).c_str(),
              fixed(seconds, 2).c_str(), fixed(rate, 2).c_str());
  return 0;
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
        "  bitloom pack model.safetensors --bits 4 --group 32 --scales f16 -o model.blw\n"
        "  bitloom pack --list model.blw\n",
    .options = {{"-o", "FILE", "what to write, all of it or nothing"},
                {"--bits", "NUMBER", "of a weight, 1 to 8; 4 without it"},
                {"--group", "NUMBER", "weights that share a scale, or row; 128 without it"},
                {"--asymmetric", "", "a zero point too for each group"},
                {"--scales", "DTYPE", "of scales and zero points: f32 (the default), f16 or bf16"},
                {"--packing", "TEXT",
                 "as `bitloom packing` takes it; planar without it, a block a group where it can be"},
                {"--target", "KIND", "what the packing is for: any (the default), x86, aarch64 or gpu"},
                {"--only", "TEXT", "the tensors whose names hold it"},
                {"--list", "", "instead: check FILEs that it wrote, and show what they hold"}},
    .run = runPack,
};

} // namespace bitloom::tools
