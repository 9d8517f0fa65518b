// How a kernel looks from Python, worked out from its row in the registry: the order of its parameters, its docstring.
#pragma once

#include "bitloom/dsl/Registry.h"

#include <string>
#include <vector>

namespace bitloom::python {

// A call takes the inputs that it needs and then the others and the scalars by position or by name; outputs and Meta
// parameters by name.
struct Signature {
  struct Entry {
    size_t parameter;       // its index in a variant's parameters
    bool byPosition = true; // or by name only
    bool required = false;
    std::string standard; // the default as Python writes it; empty when required
  };

  explicit Signature(const KernelRow &row);
  std::vector<Entry> entries;  // those by position first
  std::vector<size_t> outputs; // indices of parameters, in the order of the results
  std::string text;            // "(x, weight, eps=1e-06, *, out=None, block=None)"
  std::string documentation;   // the docstring, without the signature
};

// Whether a call with Meta parameters at their defaults makes the view empty, whatever the extents: "n * asymmetric".
// An output of the kind is a result only where it is passed or the Meta parameters ask for it.
bool isOptional(const std::vector<Parameter> &parameters, const Parameter &view);

} // namespace bitloom::python
