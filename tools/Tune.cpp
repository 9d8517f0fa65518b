#include "bitloom/dsl/Tune.h"

#include "bitloom/dsl/Example.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/KernelChoice.h"
#include "bitloom/tools/Table.h"

#include <cstdio>

#include <unistd.h>

namespace bitloom::tools {

static std::string textOf(const std::map<std::string, int64_t> &numbers) {
  std::string text;
  for (const auto &[name, number] : numbers)
    text += (text.empty() ? "" : " ") + name + "=" + std::to_string(number);
  return text;
}

static int runTune(const Arguments &arguments) {
  const KernelRow &kernel = kernelOf(arguments.operands()[0]);
  const auto given = arguments.assignments("--set");
  for (const Tunable &tunable : kernel.tunables)
    if (given.contains(tunable.meta))
      throw UsageError(kernel.name + ": expected no value for " + tunable.meta + ", which is tuned");
  const std::string file = arguments.value("--output", usersTunedTable());
  if (file.empty())
    throw UsageError("expected a FILE for --output where nothing is cached");
  TuneOptions options;
  options.rounds = int(arguments.number("--runs", options.rounds, 1, 1000));
  options.threads = int(arguments.number("--threads", 0, 0, 1024));
  std::vector<std::string> cases = kernel.benchmarks;
  if (arguments.has("--set") || cases.empty())
    cases = {""};
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "dtype", "sizes", "target", "default ms", "ms", "times as fast", "timed", "refused", "configuration"}};
  for (const auto &[targetName, target] : targetsOf(arguments)) {
    const Device device = deviceOf(target);
    for (size_t variant : variantsOf(kernel, arguments))
      for (const std::string &sizes : cases) {
        const Call call = callOf(kernel, variant, sizes, arguments);
        const std::string text = sizesText(call, sizes, arguments), dtype = nameOf(kernel, variant);
        options.progress = [&](size_t timed, double best, double usual) {
          if (isatty(fileno(stderr)))
            std::fprintf(stderr, "\r%s %s %s: %zu timed, %.4f ms, %.4f by default\033[K", kernel.name.c_str(),
                         dtype.c_str(), text.c_str(), timed, best, usual);
        };
        const Tuned tuned = tune(kernel, variant, target, device, call.tunedKey().sizes, options);
        if (isatty(fileno(stderr)))
          std::fputs("\n", stderr);
        TunedTable found;
        found.put(tuned.key, tuned.configuration);
        keepTuned(found, file); // each at once: a search that is stopped has done something
        const double best = tuned.configuration.milliseconds, usual = tuned.configuration.usualMilliseconds;
        rows.push_back({kernel.name, dtype, text, targetName, fixed(usual, 4), fixed(best, 4), fixed(usual / best, 2),
                        std::to_string(tuned.timed), std::to_string(tuned.refused), textOf(tuned.configuration.metas)});
      }
  }
  std::printf("%s\nkept in %s\n", tableOf(rows).c_str(), file.c_str());
  return 0;
}

static std::string helpText() {
  return std::string(kernelHelp) +
         "\nSearches the values of those Meta parameters that change how fast the kernel is and not what it computes, "
         "for\n"
         "the sizes of --set, or those that it is measured with. Configurations are compiled many at a time and timed "
         "one\n"
         "after the other. Calls of just those sizes and dtypes on the same target take what is found from then on, "
         "in\n"
         "every process, unless they give one of the parameters themselves. `bitloom inspect --verbose` and\n"
         "bitloom.explain say so. The file may be shipped: $BITLOOM_TUNED names one to read before the user's own.\n";
}

const Command tuneCommand = {
    .name = "tune",
    .operands = "KERNEL",
    .leastOperands = 1,
    .mostOperands = 1,
    .summary = "search for the fastest configuration and keep it for later calls",
    .description = helpText(),
    .options = {targetOption(),
                dtypeOption(),
                setOption(),
                {"--runs", "NUMBER", "rounds that each configuration is timed in; 5 without it"},
                {"--threads", "NUMBER", "how many to compile at a time; one a processor without it"},
                {"--output", "FILE", "the table to add to; without it tuned.json where compiled code is cached"}},
    .run = runTune,
};

} // namespace bitloom::tools
