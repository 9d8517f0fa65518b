#include "bitloom/dsl/Realigned.h"

#include "bitloom/dsl/Kernel.h"
#include "bitloom/dsl/internal/Scopes.h"
#include "bitloom/lib/runtime/Workspace.h"

#include <algorithm>
#include <array>
#include <utility>

namespace bitloom {

namespace {

// Two matrices in one launch, the second perhaps of no rows. What is left of a row beside whole blocks is the first
// one's: few columns, as of 4097, are no programs of their own.
template <class T> struct CopyRows {
  static constexpr auto name = "copy_rows";
  static constexpr auto summary = "out = x, more_out = more_x";
  static constexpr auto tests = "", benchmarks = "";

  View<const T, 2> x{"rows, columns"}, more_x{"more_rows, more_columns"};
  View<T, 2> out{"rows, columns"}, more_out{"more_rows, more_columns"};
  Meta<int> block_rows = 4, block_columns = 1024;
  BITLOOM_PARAMS(x, more_x, out, more_out, block_rows, block_columns)

  Grid grid() const {
    return {ceil_div(x.extent(0), block_rows) + ceil_div(more_x.extent(0), block_rows),
            maximum(wholeBlocks(x), wholeBlocks(more_x))};
  }

  void operator()() const {
    const Scalar<i64> own = ceil_div(x.extent(0), block_rows), program = program_id(0);
    when(program < own, [&] { copy(x, out, program); }, [&] { copy(more_x, more_out, program - own); });
  }

private:
  Scalar<i64> wholeBlocks(const View<const T, 2> &of) const { return maximum(of.extent(1) / block_columns, 1); }

  void copy(const View<const T, 2> &from, const View<T, 2> &to, const Scalar<i64> &program) const {
    auto rows = block_at(program, block_rows);
    auto copyColumns = [&](const Scalar<i64> &at) {
      auto columns = block_at(at, block_columns);
      to(rows, columns) = from(rows, columns);
    };
    const Scalar<i64> whole = wholeBlocks(from);
    when(program_id(1) < whole, [&] { copyColumns(program_id(1)); });
    when((program_id(1) == 0) & (whole * block_columns < from.extent(1)), [&] { copyColumns(whole); });
  }
};

constexpr int64_t lineBytes = 128; // of the L2 cache, at whose multiples the copies' rows start
constexpr size_t mostBytes = size_t{1} << 30;

DType bitsOf(DType dtype) {
  switch (bytesOf(dtype)) {
  case 1:
    return DType::i8;
  case 2:
    return DType::i16;
  default:
    return DType::i32;
  }
}

struct Matrices {
  TensorRef from, to;
};

// To rows in the workspace, which go on to a multiple of lineBytes.
PreparedCall copyOf(Matrices one, Matrices other, const Target &target) {
  for (TensorRef *matrix : {&one.from, &one.to, &other.from, &other.to})
    matrix->dtype = bitsOf(matrix->dtype);
  Call call(copyRows());
  call.set("x", one.from);
  call.set("more_x", other.from);
  call.setPadded("out", one.to);
  call.setPadded("more_out", other.to);
  call.tuneFor(target);
  call.resolve();
  return call.prepare(target);
}

TensorRef transposed(TensorRef matrix) {
  std::swap(matrix.extents[0], matrix.extents[1]);
  std::swap(matrix.strides[0], matrix.strides[1]);
  return matrix;
}

} // namespace

const KernelRow &copyRows() {
  static const KernelRow row = detail::rowOf<CopyRows<i8>, CopyRows<i16>, CopyRows<i32>>(__FILE__);
  return row;
}

std::shared_ptr<const RealignedCall> realigned(const Call &call, const Target &target) {
  constexpr int wanted = 16;
  auto result = std::make_shared<RealignedCall>();
  Call onCopies = call;
  std::vector<std::pair<RealignedCall::Copy, Matrices>> copies;
  const std::vector<Parameter> &parameters = call.variant().parameters;
  for (const auto &[name, condition] : call.kernel().realignments) {
    const size_t i = size_t(std::ranges::find(parameters, name, &Parameter::name) - parameters.begin());
    const std::optional<TensorRef> &view = call.tensors().at(i);
    if (!view || parameters[i].output || view->rank() != 2 || !view->elementCount() || bytesOf(view->dtype) > 4)
      continue;
    const auto [isStrided, isTransposed, alignment] = call.assumed(i);
    const auto holds = evaluate(condition, [&](std::string_view of) -> std::optional<int64_t> {
      auto found = call.names().find(std::string(of));
      return found == call.names().end() ? std::nullopt : std::optional(found->second);
    });
    if ((!isStrided && alignment >= wanted) || !holds || !*holds)
      continue;
    const TensorRef given = isTransposed ? transposed(*view) : *view;
    const int64_t size = bytesOf(given.dtype), columns = given.extents[1];
    const int64_t pitch = (columns * size + lineBytes - 1) / lineBytes * lineBytes;
    TensorRef copy = given;
    copy.data = reinterpret_cast<void *>(lineBytes); // as aligned as the one in the workspace
    copy.strides = {pitch / size, 1};
    copies.push_back({{i, result->bytes}, {given, copy}});
    onCopies.setPadded(name, isTransposed ? transposed(copy) : copy);
    result->bytes += size_t(pitch * given.extents[0]);
  }
  if (!result->bytes || result->bytes > mostBytes)
    return nullptr;
  for (size_t i = 0; i < copies.size();) {
    const auto &[copy, matrices] = copies[i];
    const bool isPair =
        i + 1 < copies.size() && bytesOf(matrices.from.dtype) == bytesOf(copies[i + 1].second.from.dtype);
    Matrices other = isPair ? copies[i + 1].second : matrices;
    if (!isPair)
      other.from.extents[0] = other.to.extents[0] = 0;
    RealignedCall::Launch &launch = result->before.emplace_back();
    launch.copies.push_back(copy);
    if (isPair)
      launch.copies.push_back(copies[i + 1].first);
    launch.call = copyOf(matrices, other, target);
    i += launch.copies.size();
  }
  result->call = onCopies.prepare(target);
  return result;
}

bool RealignedCall::launchOn(std::span<void *const> data, void *stream) const {
  void *workspace = cuda::workspaceFor(stream, bytes, cuda::WorkspaceFor::Copies);
  if (!workspace)
    return false;
  std::vector<void *> all(data.begin(), data.end());
  for (const Launch &launch : before) {
    std::array<void *, 4> matrices; // as copyRows() has them
    for (size_t i = 0; i < 2; ++i) {
      const Copy &copy = launch.copies[std::min(i, launch.copies.size() - 1)];
      void *own = static_cast<std::byte *>(workspace) + copy.at;
      all[copy.parameter] = own;
      matrices[i] = data[copy.parameter];
      matrices[2 + i] = own;
    }
    launch.call.launchOn(matrices, stream);
  }
  call.launchOn(all, stream);
  return true;
}

} // namespace bitloom
