// Tables of tuned configurations, which calls take them, and the search that fills them.
#include "bitloom/dsl/Tune.h"
#include "bitloom/dsl/Example.h"
#include "bitloom/dsl/Kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include <unistd.h>

using namespace bitloom;

namespace {

// Takes as long as `work` says: a loop in each program.
struct Slow {
  static constexpr auto name = "test_slow";
  static constexpr auto summary = "out = x";
  static constexpr auto tests = "n=8", benchmarks = "n=8";
  static constexpr auto tuning = "work=0,64,4096; block=8, 16";

  View<const f32, 1> x{"n"};
  View<f32, 1> out{"n"};
  Meta<bool> doubled = false;
  Meta<int> work = 2048;
  Meta<int> block = "min(next_pow2(n), 32)";
  BITLOOM_PARAMS(x, out, doubled, work, block)

  Grid grid() const { return {ceil_div(x.extent(0), block)}; }
  void operator()() const {
    auto here = block_at(program_id(0), block);
    auto sum = x(here);
    for (auto i : range(0, work)) {
      (void)i;
      sum = sqrt(sum * sum + 1.0f);
    }
    out(here) = doubled ? sum * 2.0f : sum;
  }
};
const KernelRow &slow() {
  static const KernelRow row = [] {
    KernelRow row = bitloom::detail::rowOf<Slow>(__FILE__);
    row.code = nullptr;
    return row;
  }();
  return row;
}

Call callOf(std::map<std::string, int64_t> sizes, const char *target = "host") {
  Call call(slow());
  call.tuneFor(parseTarget(target));
  call.setSizes(sizes);
  call.resolve();
  return call;
}

TunedTable one(const Call &call, std::map<std::string, int64_t> metas) {
  TunedTable table;
  table.put(call.tunedKey(), {std::move(metas), 1, 2});
  return table;
}

std::string errorOf(const std::string &text) {
  try {
    TunedTable::parse(text);
  } catch (const UserError &error) {
    return error.what();
  }
  return "";
}

struct TemporaryFile {
  std::string path = (std::filesystem::temp_directory_path() / ("bitloom-tuned-" + std::to_string(getpid()))).string();
  ~TemporaryFile() { std::filesystem::remove(path); }
};

} // namespace

TEST(Tune, ParsesWhatARowMayTry) {
  ASSERT_EQ(slow().tunables.size(), 2u);
  EXPECT_EQ(slow().tunables[0].meta, "work");
  EXPECT_EQ(slow().tunables[0].values, (std::vector<int64_t>{0, 64, 4096}));
  EXPECT_EQ(slow().tunables[1].values, (std::vector<int64_t>{8, 16}));
  EXPECT_THROW(parseTunables("block"), InternalError);
  EXPECT_THROW(parseTunables("block=8,x"), InternalError);
  for (const KernelRow *row : allKernels()) {
    std::set<std::string> alone; // what a call's views tell
    for (const Parameter &parameter : row->variants[0].parameters)
      alone.insert(parameter.shape.begin(), parameter.shape.end());
    for (const std::string &name : extentNames(*row))
      EXPECT_TRUE(row->tunables.empty() || alone.contains(name)) << row->name << " is looked up by its " << name;
    for (const Tunable &tunable : row->tunables) {
      auto named = [&](const Parameter &parameter) {
        return parameter.kind == Parameter::Kind::Meta && parameter.name == tunable.meta;
      };
      EXPECT_TRUE(std::ranges::any_of(row->variants[0].parameters, named)) << row->name << " " << tunable.meta;
      EXPECT_GE(tunable.values.size(), 2u) << row->name << " " << tunable.meta;
    }
  }
}

TEST(Tune, TablesAreTextAndBack) {
  const Call call = callOf({{"n", 40}});
  EXPECT_EQ(call.tunedKey().sizes, (std::map<std::string, int64_t>{{"n", 40}, {"doubled", 0}}));
  const TunedTable table = one(call, {{"work", 64}, {"block", 8}});
  const TunedTable again = TunedTable::parse(table.text());
  ASSERT_TRUE(again.find(call.tunedKey()));
  EXPECT_EQ(*again.find(call.tunedKey()), *table.find(call.tunedKey()));
  EXPECT_FALSE(again.find(callOf({{"n", 41}}).tunedKey()));
  EXPECT_EQ(again.text(), table.text());
  EXPECT_EQ(errorOf("{"), "table of tuned configurations: expected JSON, got [1:1, byte=1]: Expected object key");
  EXPECT_EQ(errorOf("[]"), "table of tuned configurations: expected an object with 'bitloom_tuned'");
  EXPECT_EQ(errorOf(R"({"bitloom_tuned": 2, "rows": []})"), "table of tuned configurations: expected version 1, got 2");
  EXPECT_EQ(errorOf(R"({"bitloom_tuned": 1, "rows": [{}]})"),
            "table of tuned configurations: expected text 'kernel' in each row");
}

TEST(Tune, CallsTakeWhatIsForThem) {
  TemporaryFile file;
  keepTuned(one(callOf({{"n", 40}}), {{"work", 64}, {"block", 8}}), file.path);
  const Call same = callOf({{"n", 40}});
  EXPECT_EQ(same.names().at("work"), 64);
  EXPECT_EQ(same.names().at("block"), 8);
  const std::vector<Parameter> &parameters = slow().variants[0].parameters;
  EXPECT_TRUE(same.isTuned(parameters[3]));
  EXPECT_FALSE(same.isTuned(parameters[2]));
  for (auto sizes : std::vector<std::map<std::string, int64_t>>{{{"n", 41}}, {{"n", 40}, {"doubled", 1}}})
    EXPECT_EQ(callOf(sizes).names().at("work"), 2048);
  EXPECT_EQ(callOf({{"n", 40}}, "sm_90a").names().at("work"), 2048);
  const Call given = callOf({{"n", 40}, {"block", 16}}); // tuned together: all or none
  EXPECT_EQ(given.names().at("work"), 2048);
  EXPECT_FALSE(given.isTuned(parameters[3]));
  Call ignoring(slow());
  ignoring.ignoreTuned();
  ignoring.setSizes({{"n", 40}});
  ignoring.resolve();
  EXPECT_EQ(ignoring.names().at("work"), 2048);
}

TEST(Tune, FilesAreAddedTo) {
  TemporaryFile file;
  keepTuned(one(callOf({{"n", 50}}), {{"work", 64}, {"block", 8}}), file.path);
  keepTuned(one(callOf({{"n", 51}}), {{"work", 0}, {"block", 8}}), file.path);
  keepTuned(one(callOf({{"n", 50}}), {{"work", 0}, {"block", 16}}), file.path);
  std::ifstream stream(file.path);
  const TunedTable table = TunedTable::parse(std::string(std::istreambuf_iterator<char>(stream), {}));
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(table.find(callOf({{"n", 50}}).tunedKey())->metas.at("block"), 16);
  std::ofstream(file.path) << "mine";
  EXPECT_THROW(keepTuned(table, file.path), UserError);
  std::ifstream kept(file.path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(kept), {}), "mine"); // not written over
  EXPECT_THROW(keepTuned(table, "/proc/tuned.json"), UserError);
}

TEST(Tune, FindsTheFastest) {
  size_t reports = 0;
  TuneOptions options{.rounds = 3, .threads = 2, .progress = [&](size_t, double best, double usual) {
                        ++reports;
                        EXPECT_LE(best, usual);
                      }};
  const Tuned tuned = tune(slow(), 0, hostTarget(), {}, {{"n", 60}}, options);
  EXPECT_EQ(tuned.configuration.metas.at("work"), 0);
  EXPECT_LT(tuned.configuration.milliseconds, tuned.configuration.usualMilliseconds);
  EXPECT_EQ(tuned.key, callOf({{"n", 60}}).tunedKey());
  EXPECT_GE(tuned.timed, 5u); // the default, three of work and two of block
  EXPECT_EQ(tuned.refused, 0u);
  EXPECT_GE(reports, 3u);
  EXPECT_THROW(tune(slow(), 0, hostTarget(), {}, {{"n", 60}, {"block", 8}}), UserError);
  EXPECT_THROW(tune(kernelNamed("vector_add"), 0, hostTarget(), {}, {{"n", 60}}), UserError);
}
