#include "bitloom/lowering/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/AttrTypeSubElements.h"

using namespace mlir;

namespace bitloom {

#define GEN_PASS_DEF_ERASEBFLOAT
#include "lowering/Passes.h.inc"

namespace {
struct EraseBFloat : impl::EraseBFloatBase<EraseBFloat> {
  void runOnOperation() override {
    auto *context = &getContext();
    Type half = IntegerType::get(context, 16);
    AttrTypeReplacer replacer;
    replacer.addReplacement([&](BFloat16Type) -> Type { return half; });
    replacer.addReplacement([&](FloatAttr value) -> std::optional<Attribute> {
      if (!value.getType().isBF16())
        return std::nullopt;
      return IntegerAttr::get(half, value.getValue().bitcastToAPInt());
    });
    replacer.addReplacement([&](DenseElementsAttr values) -> std::optional<Attribute> {
      if (!values.getElementType().isBF16())
        return std::nullopt;
      return values.bitcast(half);
    });
    replacer.recursivelyReplaceElementsIn(getOperation(), /*replaceAttrs=*/true, /*replaceLocs=*/false,
                                          /*replaceTypes=*/true);
    // A bitcast from a type to itself is no longer one.
    getOperation().walk([](LLVM::BitcastOp op) {
      if (op.getArg().getType() != op.getType())
        return;
      op.replaceAllUsesWith(op.getArg());
      op.erase();
    });
  }
};
} // namespace
} // namespace bitloom
