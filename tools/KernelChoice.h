// Which kernel, variant, sizes and targets a command line names: what inspect, check, bench and build share.
#pragma once

#include "bitloom/dsl/Call.h"
#include "bitloom/tools/Arguments.h"

namespace bitloom::tools {

// The row of "rms_norm", or of "./libmine.so:my_kernel". UsageError: no such kernel or library.
const KernelRow &kernelOf(const std::string &operand);

// The same, or every row of "./libmine.so".
std::vector<const KernelRow *> kernelsOf(const std::string &operand);

// The options that every command on a kernel takes, and the paragraph of its help page on them.
Option dtypeOption();
Option setOption();
Option targetOption();
Option verboseOption();
extern const char *const kernelHelp;

// With --verbose: on stderr, which code the call runs on the target and why (dsl/Explain.h). Views that are not bound
// are taken to be contiguous.
void explainIfAsked(const Arguments &arguments, const Call &call, const Target &target);

// The indices of the variants that --dtype names; all without it. UsageError: none.
std::vector<size_t> variantsOf(const KernelRow &kernel, const Arguments &arguments);

// The targets of --target, "host" without it. UsageError: an unknown one.
struct NamedTarget {
  std::string name; // as given: the canonical name of a host is long
  Target target;
};
std::vector<NamedTarget> targetsOf(const Arguments &arguments);

// What runs such code: the host, or the first GPU that does. UserError: nothing here.
Device deviceOf(const Target &target);

// A call of the variant, resolved: `sizes` ("rows=3 cols=199", a case of the row), overridden by --set. Views are not
// bound. UsageError: a name that the kernel has not, a value that is no number, or an extent without a value.
Call callOf(const KernelRow &kernel, size_t variant, const std::string &sizes, const Arguments &arguments);

// "rows=3 cols=199": the extents of a resolved call and the Meta parameters that --set or the case gave.
std::string sizesText(const Call &call, const std::string &sizes, const Arguments &arguments);

} // namespace bitloom::tools
