#include "bitloom/lowering/Program.h"

#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

namespace bitloom {
namespace {

constexpr const char *empty = "func.func @nothing(%x: !tile.view<?xf32>) attributes {tile.kernel} {\n  return\n}\n";

TEST(Program, PrintsWhatItParsed) {
  Program program = Program::parse(empty);
  EXPECT_EQ(program.kernelName(), "nothing");
  std::string text = program.print();
  EXPECT_NE(text.find("func.func @nothing(%arg0: !tile.view<?xf32>) attributes {tile.kernel}"), text.npos) << text;
  EXPECT_EQ(Program::parse(text).print(), text);
  EXPECT_EQ(text.find("loc("), text.npos);
  std::string located = Program::parse(empty, "user.mlir").print(true);
  EXPECT_NE(located.find("\"user.mlir\":2:3"), located.npos) << located;
  EXPECT_EQ(Program::parse(located).print(true), located) << "locations survive";
}

TEST(Program, ComplaintsNameThePlace) {
  try {
    Program::parse("func.func @k(%x: !tile.view<?xf32>) {\n  %e = tile.extent %x, 3 : !tile.view<?xf32>\n  return\n}",
                   "user.mlir");
    FAIL() << "parsed";
  } catch (const UserError &error) {
    EXPECT_STREQ(error.location().file, "user.mlir");
    EXPECT_EQ(error.location().line, 2u);
    EXPECT_EQ(error.message().substr(0, 51), "'tile.extent' op dimension: expected 0 to 0, got 3\n")
        << "then MLIR's note";
  }
  EXPECT_THROW(Program::parse("nonsense"), UserError);
  EXPECT_THROW(Program::parse("func.func private @f()").kernelName(), UserError);
}

TEST(Program, ClonesOutliveTheirOriginal) {
  auto original = std::make_unique<Program>(Program::parse(empty));
  Program copy = original->clone();
  original.reset();
  EXPECT_EQ(copy.kernelName(), "nothing");
  copy.verify();
  Program moved = std::move(copy);
  EXPECT_EQ(moved.kernelName(), "nothing");
}

TEST(Program, StartsEmpty) {
  Program program;
  program.verify();
  EXPECT_EQ(program.print(), "module {\n}\n");
  EXPECT_THROW(program.kernelName(), UserError);
}

} // namespace
} // namespace bitloom
