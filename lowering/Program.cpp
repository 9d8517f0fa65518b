#include "bitloom/lowering/Program.h"

#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ArmNeon/ArmNeonDialect.h"
#include "mlir/Dialect/ArmSVE/IR/ArmSVEDialect.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Index/IR/IndexDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/UB/IR/UBOps.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Dialect/X86Vector/X86VectorDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"

using namespace mlir;

namespace bitloom {

struct Program::Impl {
  std::shared_ptr<MLIRContext> context; // outlives the module
  OwningOpRef<ModuleOp> module;
};

static std::shared_ptr<MLIRContext> makeContext() {
  auto context = std::make_shared<MLIRContext>(MLIRContext::Threading::DISABLED);
  context->loadDialect<tile::TileDialect, arith::ArithDialect, math::MathDialect, scf::SCFDialect, func::FuncDialect,
                       tensor::TensorDialect, vector::VectorDialect, memref::MemRefDialect, cf::ControlFlowDialect,
                       LLVM::LLVMDialect, NVVM::NVVMDialect>();
  // Met only in the text of later stages, and loaded when it names them.
  DialectRegistry registry;
  registry.insert<arm_neon::ArmNeonDialect, arm_sve::ArmSVEDialect, x86vector::X86VectorDialect, index::IndexDialect,
                  ub::UBDialect>();
  context->appendDialectRegistry(registry);
  return context;
}

Program::Program(std::unique_ptr<Impl> impl) : impl(std::move(impl)) {}
Program::~Program() = default;
Program::Program(Program &&) noexcept = default;
Program &Program::operator=(Program &&) noexcept = default;

Program::Program() : impl(new Impl{makeContext(), nullptr}) {
  impl->module = ModuleOp::create(UnknownLoc::get(context()));
}

Program Program::parse(std::string_view text, std::string_view name) {
  auto context = makeContext();
  Diagnostics diagnostics(context.get());
  OwningOpRef<ModuleOp> module = parseSourceString<ModuleOp>(text, ParserConfig(context.get()), name);
  if (!module)
    throw diagnostics.userError("expected a module of tile IR in " + std::string(name));
  return Program(std::unique_ptr<Impl>(new Impl{std::move(context), std::move(module)}));
}

Program Program::clone() const {
  return Program(std::unique_ptr<Impl>(new Impl{impl->context, impl->module->clone()}));
}

ModuleOp Program::module() const { return *impl->module; }
MLIRContext *Program::context() const { return impl->context.get(); }

std::string Program::kernelName() const {
  for (Operation &op : impl->module->getOps())
    if (op.hasAttr(tile::kernelAttr))
      if (auto name = op.getAttrOfType<StringAttr>(SymbolTable::getSymbolAttrName()))
        return name.str();
  throw UserError("expected a function with the attribute " + tile::kernelAttr.str() + ", got none");
}

void Program::verify() const {
  Diagnostics diagnostics(context());
  if (failed(mlir::verify(module())))
    throw diagnostics.internalError("the program does not verify");
}

std::string Program::print(bool locations) const {
  std::string text;
  llvm::raw_string_ostream out(text);
  module().print(out, OpPrintingFlags().enableDebugInfo(locations));
  return text;
}

} // namespace bitloom
