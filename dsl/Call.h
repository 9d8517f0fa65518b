// A call of a kernel: arguments bound by name, checked against the declaration, then traced, compiled and launched.
#pragma once

#include "bitloom/dsl/Registry.h"
#include "bitloom/dsl/TunedTable.h"
#include "bitloom/lib/target/Target.h"

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace bitloom {

class Executable;
class Program;
struct RealignedCall;

// A call that is ready to run, and to run again on other tensors like its own: of the same extents and strides, on the
// same device, and aligned to 16 bytes where its own are. Running it costs what the launch does, and little more.
struct PreparedCall {
  std::shared_ptr<Executable> executable; // null when the grid is empty
  std::array<int64_t, 3> grid{};
  std::vector<int64_t> words;
  struct Address {
    size_t parameter, word; // of a view: its number among the parameters, and where its address lies among the words
  };
  std::vector<Address> addresses;
  Device device;
  int64_t grain = 1;                              // programs that are worth another thread of a CPU
  std::shared_ptr<const RealignedCall> realigned; // on a GPU: what runs instead where it has a workspace (Realigned.h)

  // On a CPU to the end, on a GPU, whose context is current, on `stream`; on the tensors of the call itself, or on
  // others, whose addresses `data` has by parameter.
  void launch(void *stream = nullptr) const;
  void launchOn(std::span<void *const> data, void *stream = nullptr) const;
};

class Call {
public:
  explicit Call(const KernelRow &kernel);

  // Binds a parameter. Throws UserError when the kernel has none of that name or it takes the other kind.
  void set(std::string_view name, const TensorRef &tensor);
  // … whose gaps between rows are the call's as well: stores may write there.
  void setPadded(std::string_view name, const TensorRef &tensor);
  void set(std::string_view name, double number);
  void set(std::string_view name, int64_t number);
  // Gives the names of extents their values before any view is bound: missingViews() then says what the views must be.
  // Names that are Meta parameters set those.
  void setSizes(const std::map<std::string, int64_t> &sizes);
  // Takes the variant of this index, or the first whose view parameters have elements of `dtype`, whatever is bound.
  void chooseVariant(size_t index) { chosen = index; }
  void chooseVariant(DType dtype);
  // Of which target defaults of Meta parameters may know `multiprocessors` and `compute_capability` (0 on a CPU), and
  // tuned ones are taken. Before resolve(), which otherwise takes the tensors' device.
  void tuneFor(const Target &target);
  // Takes the kernel's own defaults, whatever was tuned (dsl/TunedTable.h). Before resolve().
  void ignoreTuned() { takesTuned = false; }

  // Chooses the variant that the bound tensors fit, gives every name of an extent its value and every Meta parameter
  // its default, or what was tuned for such a call where it gives none of what is tuned. Throws UserError that names
  // the argument, what was expected and what came: dtype, rank, extent, device.
  void resolve();

  // Of the views that are not bound: what they must be. After resolve(), which itself leaves out inputs whose extents
  // make them empty. Throws UserError for one whose extents the bound arguments do not tell.
  struct Missing {
    std::string name;
    DType dtype;
    Dims extents;
    Dims strides; // of a tensor without gaps, as it is to lie in memory
  };
  std::vector<Missing> missingViews() const;
  bool complete() const { return missingViews().empty(); }

  const KernelRow &kernel() const { return *row; }
  const Variant &variant() const { return row->variants[chosen.value_or(0)]; }
  const std::vector<std::optional<TensorRef>> &tensors() const { return views; }
  const std::map<std::string, int64_t> &names() const { return sizes; } // of extents and Meta parameters
  // Of one of these, of `multiprocessors` or `compute_capability`, or of "x.given" and "x.transposed" for a view x.
  std::optional<int64_t> named(std::string_view name) const;
  Device device() const;
  // Whether a parameter is a view whose last two dimensions are swapped in memory. After resolve().
  bool isTransposed(size_t parameter) const;
  // What the machine code may take for granted of a bound view, as it lies in memory. After resolve().
  struct Assumed {
    bool strided, transposed;
    int alignment; // bytes, of every row; 0: an element's
  };
  Assumed assumed(size_t parameter) const;
  // A Meta parameter's value where none is given; none where its expression has no value here. After resolve().
  std::optional<int64_t> defaultOf(const Parameter &meta) const;
  // Whether the value of this Meta parameter comes from a table of tuned ones. After resolve().
  bool isTuned(const Parameter &meta) const { return tuned.contains(meta.name); }
  // What tuned values are looked up by. After resolve().
  TunedKey tunedKey() const;
  // Bytes that the call must move at the least: each view read or written once.
  int64_t minimalBytes() const;

  // After resolve(), with every view bound:
  Program trace() const; // throws UserError with the kernel's file and line
  std::array<int64_t, 3> grid() const;
  std::vector<int64_t> words() const; // by the calling convention of lib/runtime/Launch.h
  // Compiled code is kept for calls with the same element types, Meta parameters, alignment and target.
  std::shared_ptr<Executable> executable(const Target &target) const;
  // For calls that repeat. The code is that of executable(target).
  PreparedCall prepare(const Target &target) const;
  // Runs on the tensors' own device: on a CPU to the end, on a GPU on `stream`.
  void launch(void *stream = nullptr) const;
  void launch(const Target &target, void *stream) const;
  // Runs in the interpreter; tensors must be on the CPU.
  void interpret() const;

private:
  size_t indexOf(std::string_view name, std::initializer_list<Parameter::Kind> kinds) const;
  void pickVariant();
  void checkViews();
  void fillMetas(bool tunables = true);
  void takeTuned();
  bool isTunable(const Parameter &meta) const;
  void checkConditions() const;
  std::vector<Slot> slots() const;
  TensorRef inMemory(size_t parameter) const; // the view as it lies there
  std::string specialisation() const;

  const KernelRow *row;
  std::optional<size_t> chosen;
  std::vector<std::optional<TensorRef>> views; // by parameter
  std::set<size_t> padded;                     // of them
  std::vector<std::optional<int64_t>> numbers; // a scalar's bits, a Meta's value
  // As given, before the variant says their type.
  std::vector<std::optional<std::variant<int64_t, double>>> scalars;
  std::map<std::string, int64_t> sizes;
  struct TargetFacts {
    int multiprocessors, computeCapability;
    std::string name;
  };
  std::optional<TargetFacts> target;
  bool takesTuned = true;
  std::set<std::string> tuned; // names of Meta parameters
};

} // namespace bitloom
