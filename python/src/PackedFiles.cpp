#include "bitloom/python/src/Module.h"
#include "bitloom/python/src/Tensors.h"

#include "bitloom/lib/packing/PackedFile.h"
#include "bitloom/lib/support/Error.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

namespace bitloom::python {

namespace {

// A matrix in the file, which stays mapped as long as anyone looks at it.
struct Section {
  std::shared_ptr<const PackedFile> file;
  std::span<const std::byte> bytes;
  int64_t rows;
  const char *format; // of an element, as the module struct has it
  int elementBytes;

  py::buffer_info buffer() const {
    const int64_t columns = rows ? int64_t(bytes.size()) / elementBytes / rows : 0;
    return py::buffer_info(const_cast<std::byte *>(bytes.data()), elementBytes, format, 2, {rows, columns},
                           {columns * elementBytes, int64_t{elementBytes}}, /*readonly=*/true);
  }
};

struct FileTensor {
  std::shared_ptr<const PackedFile> file;
  const PackedTensor *tensor;

  py::object view(std::span<const std::byte> bytes, int64_t rows, const char *format, int elementBytes) const {
    py::object section = py::cast(Section{file, bytes, rows, format, elementBytes});
    return py::reinterpret_steal<py::object>(PyMemoryView_FromObject(section.ptr()));
  }
  py::object numbers(std::span<const std::byte> bytes) const {
    const DType dtype = tensor->format.scales; // numpy has no bfloat16: its bits
    const bool byColumns = tensor->format.packing.order == Packing::Order::Columns;
    const int64_t rows = byColumns ? tensor->format.groups(tensor->columns) : tensor->rows;
    return view(bytes, rows, dtype == DType::f32 ? "f" : dtype == DType::f16 ? "e" : "H", bytesOf(dtype));
  }
};

std::shared_ptr<const PackedFile> openFile(const std::filesystem::path &path, const std::string &target) {
  py::gil_scoped_release release;
  return PackedFile::open(path.string(), target);
}

void writePacked(const std::filesystem::path &path, const py::dict &tensors, int bits, int64_t group, bool asymmetric,
                 const std::string &scales, const std::optional<Packing> &packing, const std::string &target) {
  auto dtype = dtypeNamed(scales);
  if (!dtype)
    throw UserError("write_packed: expected scales of f32, f16 or bf16, got '" + scales + "'");
  WeightFormat format{packing.value_or(Packing{.bits = bits, .order = Packing::Order::Planar, .block = 8}), group,
                      asymmetric, *dtype};
  if (!packing) // a block a group where that can be
    format.packing.block = int(std::clamp<int64_t>(group & -group, 8, 65536));
  format.check();
  PackedFileWriter writer(path.string(), target);
  for (auto [key, value] : tensors) {
    const std::string name = py::str(key), where = "write_packed: tensor " + name;
    CallStream stream;
    Borrowed from;
    from.borrow(value.ptr(), stream, where);
    const TensorRef matrix = from.tensor(where);
    if (matrix.device.kind != Device::Kind::Cpu || matrix.rank() != 2 || !matrix.contiguous())
      throw UserError(where + ": expected a contiguous matrix on cpu, got " + matrix.describe());
    py::gil_scoped_release release;
    writer.add(name, format, matrix.data, matrix.dtype, matrix.extents[0], matrix.extents[1]);
  }
  py::gil_scoped_release release;
  writer.finish();
}

} // namespace

void bindPackedFiles(py::module_ &module) {
  py::class_<Section>(module, "_PackedSection", py::buffer_protocol()).def_buffer([](Section &section) {
    return section.buffer();
  });

  py::class_<FileTensor>(module, "PackedTensor", "A matrix of low-bit weights in a PackedFile.")
      .def_property_readonly("name", [](const FileTensor &t) { return t.tensor->name; })
      .def_property_readonly("shape",
                             [](const FileTensor &t) { return py::make_tuple(t.tensor->rows, t.tensor->columns); })
      .def_property_readonly("packing", [](const FileTensor &t) { return t.tensor->format.packing; })
      .def_property_readonly("bits", [](const FileTensor &t) { return t.tensor->format.packing.bits; })
      .def_property_readonly(
          "group", [](const FileTensor &t) { return t.tensor->format.group; }, "weights that share a scale")
      .def_property_readonly("asymmetric", [](const FileTensor &t) { return t.tensor->format.asymmetric; })
      .def_property_readonly(
          "weight",
          [](const FileTensor &t) {
            const int64_t together = t.tensor->format.packing.rows;
            return t.view(t.tensor->weight, (t.tensor->rows + together - 1) / together, "B", 1);
          },
          "the packed bytes, (rows or panels, bytes of each): a memoryview of the file, which numpy.asarray takes as "
          "it is")
      .def_property_readonly(
          "scales", [](const FileTensor &t) { return t.numbers(t.tensor->scales); },
          "(rows, groups), or (groups, rows) in the order columns: a memoryview of the file; of bf16, the bits")
      .def_property_readonly(
          "zeros",
          [](const FileTensor &t) -> py::object {
            return t.tensor->format.asymmetric ? t.numbers(t.tensor->zeros) : py::none();
          },
          "the same of the zero points; None without")
      .def("__repr__", [](const FileTensor &t) {
        return "<bitloom packed tensor " + t.tensor->name + ": " + std::to_string(t.tensor->rows) + " x " +
               std::to_string(t.tensor->columns) + ", " + t.tensor->format.packing.toString() + ">";
      });

  py::class_<PackedFile, std::shared_ptr<PackedFile>>(
      module, "PackedFile", R"(A file of packed weights, mapped into memory: by name, its PackedTensors.

target: what they are to be used for: x86, aarch64 or gpu; "any" does not ask.
Raises UserError, which names the file, when it is no such file, of another version, cut off, damaged or packed for
another target.)")
      .def(py::init([](const std::filesystem::path &path, const std::string &target) {
             return std::const_pointer_cast<PackedFile>(openFile(path, target));
           }),
           py::arg("path"), py::arg("target") = "any")
      .def_property_readonly("path", &PackedFile::path)
      .def_property_readonly("target", &PackedFile::target, "what the packings are for: any, x86, aarch64 or gpu")
      .def("verify", &PackedFile::verify, py::call_guard<py::gil_scoped_release>(),
           "Reads all of the file and raises UserError where it is not what was written.")
      .def("keys",
           [](const PackedFile &file) {
             std::vector<std::string> names;
             for (const PackedTensor &tensor : file.tensors())
               names.push_back(tensor.name);
             return names;
           })
      .def("__len__", [](const PackedFile &file) { return file.tensors().size(); })
      .def("__contains__",
           [](const PackedFile &file, const std::string &name) {
             return std::ranges::any_of(file.tensors(),
                                        [&](const PackedTensor &tensor) { return tensor.name == name; });
           })
      .def("__getitem__", [](const std::shared_ptr<PackedFile> &file,
                             const std::string &name) { return FileTensor{file, &file->tensor(name)}; })
      .def("__iter__", [](const PackedFile &file) {
        py::list names;
        for (const PackedTensor &tensor : file.tensors())
          names.append(tensor.name);
        return py::iter(names);
      });

  module.def("write_packed", &writePacked, py::arg("path"), py::arg("tensors"), py::arg("bits") = 4,
             py::arg("group") = 128, py::arg("asymmetric") = false, py::arg("scales") = "f32",
             py::arg("packing") = py::none(), py::arg("target") = "any",
             R"(Quantises matrices and writes them as a file that PackedFile opens.

tensors: name to matrix of f32, f16 or bf16, contiguous and on the CPU. group: weights of a row that share a scale:
value = scale * q, q signed; asymmetric: scale * (q - zero), q unsigned. scales: the element type of scales and zeros.
packing: a Packing instead of bits; without it planar, a block a group where that can be.
Raises UserError, and leaves nothing, for other arrays and for values that are not finite.)");
}

} // namespace bitloom::python
