// mlir-opt with the tile dialect and bitloom's passes: what the tests of tests/lit run.
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ArmNeon/ArmNeonDialect.h"
#include "mlir/Dialect/ArmSVE/IR/ArmSVEDialect.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/Passes.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/UB/IR/UBOps.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Dialect/X86Vector/X86VectorDialect.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  registry.insert<bitloom::tile::TileDialect, mlir::arith::ArithDialect, mlir::math::MathDialect, mlir::scf::SCFDialect,
                  mlir::func::FuncDialect, mlir::tensor::TensorDialect, mlir::vector::VectorDialect,
                  mlir::memref::MemRefDialect, mlir::cf::ControlFlowDialect, mlir::LLVM::LLVMDialect,
                  mlir::NVVM::NVVMDialect, mlir::arm_neon::ArmNeonDialect, mlir::arm_sve::ArmSVEDialect,
                  mlir::x86vector::X86VectorDialect, mlir::ub::UBDialect>();
  mlir::registerTransformsPasses();
  mlir::registerConversionPasses();
  bitloom::registerAssignLayouts();
  bitloom::registerConvertToLLVM();
  bitloom::registerDecomposePacking();
  bitloom::registerEraseBFloat();
  bitloom::registerExpandFloats();
  bitloom::registerExpandMath();
  bitloom::registerSpecializeWarps();
  bitloom::registerPipelineDots();
  bitloom::registerShareSteps();
  bitloom::registerTileToLoops();
  bitloom::registerTileToNVVM();
  return mlir::asMainReturnCode(mlir::MlirOptMain(argc, argv, "bitloom-opt\n", registry));
}
