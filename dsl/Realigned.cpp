#include "bitloom/dsl/Realigned.h"

#include "bitloom/dsl/Kernel.h"
#include "bitloom/lib/runtime/Workspace.h"

#include <algorithm>
#include <utility>

namespace bitloom {

namespace {

template <class T> struct CopyRows {
  static constexpr auto name = "copy_rows";
  static constexpr auto summary = "out = x";
  static constexpr auto tests = "", benchmarks = "";

  View<const T, 2> x{"rows, columns"};
  View<T, 2> out{"rows, columns"};
  Meta<int> block_rows = 4, block_columns = 1024;
  BITLOOM_PARAMS(x, out, block_rows, block_columns)

  Grid grid() const { return {ceil_div(out.extent(0), block_rows), ceil_div(out.extent(1), block_columns)}; }

  void operator()() const {
    auto rows = block_at(program_id(0), block_rows), columns = block_at(program_id(1), block_columns);
    out(rows, columns) = x(rows, columns);
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

PreparedCall copyOf(TensorRef from, TensorRef to, const Target &target) {
  from.dtype = to.dtype = bitsOf(from.dtype);
  Call call(copyRows());
  call.set("x", from);
  call.set("out", to);
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
  const std::vector<Parameter> &parameters = call.variant().parameters;
  for (const auto &[name, condition] : call.kernel().realignments) {
    const size_t i = size_t(std::ranges::find(parameters, name, &Parameter::name) - parameters.begin());
    const std::optional<TensorRef> &view = call.tensors().at(i);
    if (!view || view->rank() != 2 || !view->elementCount() || bytesOf(view->dtype) > 4)
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
    const bool isOutput = parameters[i].output;
    (isOutput ? result->after : result->before)
        .push_back({i, result->bytes, isOutput ? copyOf(copy, given, target) : copyOf(given, copy, target)});
    onCopies.setPadded(name, isTransposed ? transposed(copy) : copy);
    result->bytes += size_t(pitch * given.extents[0]);
  }
  if (!result->bytes || result->bytes > mostBytes)
    return nullptr;
  result->call = onCopies.prepare(target);
  return result;
}

bool RealignedCall::launchOn(std::span<void *const> data, void *stream) const {
  void *workspace = cuda::workspaceFor(stream, bytes, cuda::WorkspaceFor::Copies);
  if (!workspace)
    return false;
  std::vector<void *> all(data.begin(), data.end());
  auto in = [&](const Copy &copy) { return static_cast<std::byte *>(workspace) + copy.at; };
  for (const Copy &copy : before) {
    copy.call.launchOn(std::array{data[copy.parameter], static_cast<void *>(in(copy))}, stream);
    all[copy.parameter] = in(copy);
  }
  for (const Copy &copy : after)
    all[copy.parameter] = in(copy);
  call.launchOn(all, stream);
  for (const Copy &copy : after)
    copy.call.launchOn(std::array{static_cast<void *>(in(copy)), data[copy.parameter]}, stream);
  return true;
}

} // namespace bitloom
