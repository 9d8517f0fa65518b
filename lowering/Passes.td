// Every pass: one record here, one .cpp of the same name, one lit test of the same name in tests/lit.
#ifndef BITLOOM_PASSES
#define BITLOOM_PASSES

include "mlir/Pass/PassBase.td"

def DecomposePacking : Pass<"tile-decompose-packing", "::mlir::func::FuncOp"> {
  let summary = "rewrite unpack and pack of several planes into those of one plane each";
  let description = [{
    A width that is no power of two is a sum of planes (3 = 2 + 1): each plane is sliced out of the bytes, unpacked as
    unsigned values of a power-of-two width, and the parts are shifted and combined; signs are extended last. After
    this pass every `tile.unpack` and `tile.pack` has bits = 1, 2, 4 or 8 and is unsigned.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::bitloom::tile::TileDialect"];
}

def TileToLoops : Pass<"tile-to-loops", "::mlir::ModuleOp"> {
  let summary = "fuse tiles into loops over native vectors (CPU targets)";
  let description = [{
    See the comment of TileToLoops.cpp. Each kernel becomes an `llvm.func` with the calling convention of CpuKernel
    (lib/runtime/Launch.h), in which there are no tensors and no tile operations.
  }];
  let options = [Option<"target", "target", "std::string", "\"x86-64-v4\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
                           "::mlir::vector::VectorDialect", "::mlir::LLVM::LLVMDialect"];
}

def AssignLayouts : Pass<"tile-assign-layouts", "::mlir::func::FuncOp"> {
  let summary = "give every tile a linear layout, and insert the conversions (GPU targets)";
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::bitloom::tile::TileDialect"];
}

def SpecializeWarps : Pass<"tile-specialize-warps", "::mlir::func::FuncOp"> {
  let summary = "split a kernel into a producer that loads and consumers that compute (NVIDIA targets)";
  let description = [{
    See the comment of SpecializeWarps.cpp. A kernel with no loads into shared memory stays as it is.
  }];
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::bitloom::tile::TileDialect", "::mlir::arith::ArithDialect"];
}

def PipelineDots : Pass<"tile-pipeline-dots", "::mlir::func::FuncOp"> {
  let summary = "overlap a loop's chained dots with what is computed between them (NVIDIA targets)";
  let description = [{
    See the comment of PipelineDots.cpp. Of kernels that tile-specialize-warps gave roles.
  }];
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::bitloom::tile::TileDialect", "::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect"];
}

def ShareSteps : Pass<"tile-share-steps", "::mlir::func::FuncOp"> {
  let summary = "let the blocks of a grid share the steps of its programs evenly (stream-K)";
  let description = [{
    See the comment of ShareSteps.cpp. Only kernels with the attribute tile.stream_k change.
  }];
  let dependentDialects = ["::bitloom::tile::TileDialect", "::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect"];
}

def TileToNVVM : Pass<"tile-to-nvvm", "::mlir::ModuleOp"> {
  let summary = "lower tiles with layouts to one thread's registers (NVIDIA targets)";
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::scf::SCFDialect", "::mlir::LLVM::LLVMDialect",
                           "::mlir::NVVM::NVVMDialect"];
}

def ExpandMath : Pass<"tile-expand-math", "::mlir::ModuleOp"> {
  let summary = "rewrite math functions as arithmetic, or as calls of libm (CPU targets)";
  let description = [{
    See the comment of ExpandMath.cpp, which lists each function's method and error. What stays of `math` has an
    instruction on the target.
  }];
  let options = [Option<"target", "target", "std::string", "\"x86-64-v4\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::func::FuncDialect", "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect", "::mlir::LLVM::LLVMDialect"];
}

def ExpandFloats : Pass<"tile-expand-floats", "::mlir::ModuleOp"> {
  let summary = "rewrite bf16 arithmetic in f32, and conversions of bf16 and 8-bit floats in integers (CPU targets)";
  let description = [{
    A sum, product, quotient or root of bf16 values that is computed in f32 and then rounded to bf16 is the correctly
    rounded one, since 24 bits of mantissa are at least 2 * 8 + 2 (Figueroa, "When is double rounding innocuous?").
    Processors with bf16 instructions round by one of them; x86's takes numbers below 2^-126 for zero.
    8-bit floats are converted by way of f32, saturating, and are i8 afterwards.
  }];
  let options = [Option<"target", "target", "std::string", "\"x86-64-v4\"", "the target, as parseTarget spells it">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect", "::mlir::vector::VectorDialect"];
}

def EraseBFloat : Pass<"tile-erase-bfloat", "::mlir::ModuleOp"> {
  let summary = "give every bf16 of the llvm dialect the type i16 (x86 without bf16 instructions)";
  let description = [{
    After tile-expand-floats nothing computes on bf16 any more. LLVM, though, moves a scalar bf16 of such a processor
    through f32, and rounds it back with a function of compiler-rt that a process need not have.
  }];
}

def ConvertToLLVM : Pass<"tile-to-llvm", "::mlir::ModuleOp"> {
  let summary = "convert arith, math, cf, func, index and ub to the llvm dialect in one go";
  let dependentDialects = ["::mlir::LLVM::LLVMDialect"];
}

#endif
