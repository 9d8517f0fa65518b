// What the sums of products with a packed weight stand for: where a value's pieces were multiplied by themselves, they
// are put together, and what fields are stored too large is made up for.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

Value KernelLowering::added(Value a, Value b) {
  const bool isFloat = isa<FloatType>(getElementTypeOrSelf(a.getType()));
  return isFloat ? pure<arith::AddFOp>({a, b}, a, b) : pure<arith::AddIOp>({a, b}, a, b);
}

// Over the lanes of a block, where the atom keeps their sums apart.
Value KernelLowering::joined(const Atom &atom, Value sum) {
  for (int64_t half = atom.left == Atom::Left::Repeated ? atom.block / 2 : 0; half; half /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t i = 0; i < lanesOf(sum) / 2; ++i) {
      low.push_back(i / half * 2 * half + i % half);
      high.push_back(low.back() + half);
    }
    sum = added(shuffle(sum, sum, low), shuffle(sum, sum, high));
  }
  return sum;
}

// The sums of a block's rows of the left operand, times `factor`.
Value KernelLowering::correctionOf(ProductSums &products, int64_t block, int factor) {
  Value &known = products.corrections[{block, factor}];
  if (known)
    return known;
  Value all = joined(products.atom, ofLeft(products, block));
  if (products.byLanes)
    for (int i = 0; i < 2; ++i)
      all = callIntrinsic("llvm.aarch64.neon.addp.v4i32", all.getType(), {all, all});
  Type element = getElementTypeOrSelf(all.getType());
  const bool isFloat = isa<FloatType>(element);
  Value times = isFloat ? constant(builder.getFloatAttr(element, factor), lanesOf(all))
                        : constant(builder.getI32IntegerAttr(factor), lanesOf(all));
  return known =
             isFloat ? pure<arith::MulFOp>({all, times}, all, times) : pure<arith::MulIOp>({all, times}, all, times);
}

void KernelLowering::formSums(DotOp dot, ProductSums &products, ArrayRef<Fragment> fragments, FragmentValues &values) {
  const FieldPlan &plan = products.plan;
  const int64_t perUnit = plan.unit.values;
  Type element = elementOf(dot.getType());
  const bool fromZero = matchPattern(dot.getAcc(), m_Zero()) || matchPattern(dot.getAcc(), m_AnyZeroFloat());
  for (const Fragment &fragment : fragments) {
    const int64_t block = fragment.number / products.across;
    const int64_t value = products.firstValue + fragment.number % products.across;
    const Field &field = plan.fields[value % perUnit];
    auto sumOf = [&](int64_t operand) {
      const int64_t number = block * products.perBlock + value / perUnit * plan.operands() + operand;
      return joined(products.atom, sumAt(products, number));
    };
    Value sum;
    if (plan.method != FieldPlan::Method::Ladder) {
      sum = sumOf(value % perUnit);
    } else {
      SmallVector<Field::Part, 7> parts =
          field.parts; // the furthest to the left first, and all of them shifted together
      llvm::sort(parts, [](auto &a, auto &b) { return a.shift > b.shift; });
      for (size_t i = 0; i < parts.size(); ++i) {
        Value own = sumOf(parts[i].rung);
        if (plan.rungs[size_t(parts[i].rung)].overlaps) {
          Value before = sumOf(parts[i].rung - 1);
          own = pure<arith::SubIOp>({own, before}, own, before);
        }
        if (parts[i].isNegative) {
          Value none = sum ? sum : zero(element, lanesOf(own));
          sum = pure<arith::SubIOp>({none, own}, none, own);
        } else {
          sum = sum ? added(sum, own) : own;
        }
        const int below = i + 1 < parts.size() ? parts[i + 1].shift : 0;
        if (int by = parts[i].shift - below) {
          Value times = constant(builder.getI32IntegerAttr(by), lanesOf(sum));
          sum = pure<arith::ShLIOp>({sum, times}, sum, times);
        }
      }
    }
    if (field.offset)
      sum = added(sum, correctionOf(products, block, field.offset << field.scale));
    FragmentSum result{sum, field.scale};
    if (!fromZero || isa<FloatType>(element)) {
      Value whole = scaled(result, element);
      if (!fromZero)
        whole = added(whole, evaluateFragment(dot.getAcc(), fragment, values));
      result = {whole, 0};
    }
    values.sums[{dot.getResult(), fragment.number}] = result;
  }
}

} // namespace bitloom::loops
