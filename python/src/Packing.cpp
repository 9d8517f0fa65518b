#include "bitloom/python/src/Module.h"
#include "bitloom/python/src/Tensors.h"

#include "bitloom/lib/packing/PackingFor.h"
#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <vector>

namespace bitloom::python {

static Packing::Order orderNamed(const std::string &name) {
  for (auto order :
       {Packing::Order::LowFirst, Packing::Order::HighFirst, Packing::Order::Planar, Packing::Order::Fragments})
    if (nameOf(order) == name)
      return order;
  throw UserError("packing: expected order low, high, planar or fragments, got '" + name + "'");
}

namespace {
// An array of a caller's, or one just made, as a tensor.
struct Array {
  CallStream stream; // none: these are on the CPU
  Borrowed borrowed;
  TensorRef tensor;
  Array(py::handle array, const std::string &where) {
    borrowed.borrow(array.ptr(), stream, where);
    tensor = borrowed.tensor(where);
  }
};
} // namespace

static Array readBytes(py::handle array, const std::string &where, bool allowSigned) {
  Array bytes(array, where);
  const TensorRef &tensor = bytes.tensor;
  if (tensor.dtype != DType::u8 && !(allowSigned && tensor.dtype == DType::i8))
    throw UserError(where + ": expected dtype u8" + (allowSigned ? " or i8" : "") + ", got " +
                    std::string(nameOf(tensor.dtype)));
  if (tensor.device.kind != Device::Kind::Cpu)
    throw UserError(where + ": expected a tensor on cpu, got one on " + nameOf(tensor.device));
  if (tensor.rank() == 0)
    throw UserError(where + ": expected 1 dimension or more, got 0");
  if (!tensor.contiguous())
    throw UserError(where + ": expected a contiguous tensor, got " + tensor.describe());
  return bytes;
}

template <class T> static std::span<T> elementsOf(const TensorRef &tensor) {
  return {static_cast<T *>(tensor.data), size_t(tensor.elementCount())};
}

// Of all that comes before the columns; for packings of several rows together, those rows.
static int64_t rowsOf(const Packing &packing, Dims &extents, int64_t by, const std::string &where) {
  int64_t rows = 1;
  if (packing.rows > 1) {
    if (extents.size() < 2)
      throw UserError(where + ": expected 2 dimensions or more for " + packing.toString() + ", got 1");
    int64_t &own = extents[extents.size() - 2];
    if (by > 1 && own % by)
      throw UserError(where + ": expected a multiple of " + std::to_string(by) + " rows, got " + std::to_string(own));
    own = by > 1 ? own / by : own * packing.rows;
  }
  for (int i = 0; i + 1 < extents.size(); ++i)
    rows *= extents[i];
  return by > 1 ? rows * by : rows;
}

template <class T>
static void packInto(const Packing &packing, const TensorRef &from, int64_t rows, const TensorRef &to) {
  std::span<const T> values = elementsOf<const T>(from);
  if (packing.order != Packing::Order::Columns && packing.rows == 1)
    return pack(packing, values, elementsOf<uint8_t>(to));
  std::vector<uint8_t> bytes = packRows(packing, values, rows, rows ? int64_t(values.size()) / rows : 0);
  std::ranges::copy(bytes, elementsOf<uint8_t>(to).begin());
}

static py::object packArray(py::handle values, const Packing &packing) {
  packing.check();
  Array from = readBytes(values, "pack: argument values", true);
  Dims extents = from.tensor.extents;
  const int64_t rows = rowsOf(packing, extents, packing.rows, "pack: argument values");
  int64_t &columns = extents[extents.size() - 1];
  columns = packing.bytesPerRow(columns);
  py::object made = allocate(*from.borrowed.type, DType::u8, extents, {}, "pack");
  Array to(made, "pack: result");
  py::gil_scoped_release release;
  if (from.tensor.dtype == DType::i8)
    packInto<int8_t>(packing, from.tensor, rows, to.tensor);
  else
    packInto<uint8_t>(packing, from.tensor, rows, to.tensor);
  return made;
}

template <class T>
static void unpackInto(const Packing &packing, const TensorRef &from, int64_t rows, const TensorRef &to) {
  std::span<T> values = elementsOf<T>(to);
  std::span<const uint8_t> bytes = elementsOf<const uint8_t>(from);
  if (packing.order != Packing::Order::Columns && packing.rows == 1)
    return unpack(packing, bytes, values);
  unpackRows(packing, bytes, rows, rows ? int64_t(values.size()) / rows : 0, values);
}

static py::object unpackArray(py::handle bytes, const Packing &packing, bool isSigned) {
  packing.check();
  Array from = readBytes(bytes, "unpack: argument bytes", false);
  Dims extents = from.tensor.extents;
  int64_t &columns = extents[extents.size() - 1];
  if (columns % packing.bytesPerBlock())
    throw UserError("unpack: argument bytes: expected a multiple of " + std::to_string(packing.bytesPerBlock()) +
                    " bytes in a row, got " + std::to_string(columns));
  columns = columns / packing.bytesPerBlock() * packing.block;
  const int64_t rows = rowsOf(packing, extents, 1, "unpack: argument bytes");
  py::object made = allocate(*from.borrowed.type, isSigned ? DType::i8 : DType::u8, extents, {}, "unpack");
  Array to(made, "unpack: result");
  py::gil_scoped_release release;
  if (isSigned)
    unpackInto<int8_t>(packing, from.tensor, rows, to.tensor);
  else
    unpackInto<uint8_t>(packing, from.tensor, rows, to.tensor);
  return made;
}

void bindPacking(py::module_ &module) {
  py::class_<Packing>(module, "Packing", R"(Where each bit of a packed weight sits.

bits: of a value, 1 to 8. order: of the values in a plane: low, high, planar or fragments.
block: values packed together, a power of two from 8 to 65536. rows: of a matrix packed together, in the order fragments.
What a target wants comes from for_target: of CPUs in the order columns, which parse knows, too.)")
      .def(py::init([](int bits, const std::string &order, int block, int rows) {
             Packing packing{bits, orderNamed(order), block, rows};
             packing.check();
             return packing;
           }),
           py::arg("bits") = 4, py::arg("order") = "low", py::arg("block") = 8, py::arg("rows") = 1)
      .def_static("parse", &Packing::parse, py::arg("text"), "Of text such as \"bits=4,order=planar,block=128\".")
      .def_static(
          "for_target",
          [](const std::string &target, int bits, int64_t rows) { return packingFor(parseTarget(target), bits, rows); },
          py::arg("target"), py::arg("bits") = 4, py::arg("rows") = 1,
          R"(What a target multiplies fastest: the weight of low_bit_matmul, on a GPU that of low_bit_linear.

rows: of the activations; from 2 on, another instruction of a CPU may be chosen than for a vector.)")
      .def_static(
          "of_activations_for_target",
          [](const std::string &target, int64_t rows) { return activationPackingFor(parseTarget(target), rows); },
          py::arg("target"), py::arg("rows") = 1, "Of the 8-bit activations of the same product.")
      .def_readonly("bits", &Packing::bits)
      .def_property_readonly("order", [](const Packing &packing) { return nameOf(packing.order); })
      .def_readonly("block", &Packing::block)
      .def_readonly("rows", &Packing::rows)
      .def_readonly("lanes", &Packing::lanes)
      .def_property_readonly("bias", [](const Packing &packing) { return nameOf(packing.bias); })
      .def("bytes_per_row", &Packing::bytesPerRow, py::arg("columns"))
      .def("drawing", &Packing::drawing, "A block as a table: which bit of which value each bit of each byte is.")
      .def(
          "__eq__", [](const Packing &a, const Packing &b) { return a == b; }, py::is_operator())
      .def("__hash__", [](const Packing &packing) { return py::hash(py::str(packing.toString())); })
      .def("__str__", &Packing::toString)
      .def("__repr__", [](const Packing &packing) { return "bitloom.Packing(" + packing.toString() + ")"; });

  module.def("pack", &packArray, py::arg("values"), py::arg("packing"),
             R"(The packed bytes of integers.

values: i8 (signed fields) or u8, of shape (..., columns), on the CPU and contiguous; columns a multiple of the block.
Returns u8 of shape (..., packing.bytes_per_row(columns)), of the library of values. With a packing of several rows, of
shape (..., rows, columns) for values of (..., rows * packing.rows, columns).
Raises UserError for a value that does not fit packing.bits.)");
  module.def("unpack", &unpackArray, py::arg("bytes"), py::arg("packing"), py::arg("signed") = false,
             R"(The integers of packed bytes: the inverse of pack.

bytes: u8 of shape (..., bytes of a row), on the CPU and contiguous.
Returns u8, or i8 when signed, of shape (..., columns).)");
}

} // namespace bitloom::python
