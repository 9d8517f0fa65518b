#include "bitloom/lowering/transforms/contract/Fields.h"

namespace bitloom::loops {

bool FieldPlan::needsSum() const {
  for (const Field &field : fields)
    if (field.offset)
      return true;
  return false;
}

FieldPlan planFields(const Packing &packing, bool isSigned, bool unsignedOperand) {
  FieldPlan plan{.unit = packing.unit(), .bits = packing.bits, .method = FieldPlan::Method::Aligned};
  const int half = 1 << (packing.bits - 1);
  plan.fields.resize(size_t(plan.unit.values));
  if (packing.bias == Packing::Bias::Low && isSigned && !unsignedOperand) {
    plan.method = FieldPlan::Method::Ladder;
    for (int i = 0; i < plan.unit.values; ++i)
      plan.fields[size_t(i)] = {
          .scale = i * packing.bits, .offset = i + 1 < plan.unit.values ? -half : 0, .overlaps = i > 0};
    return plan;
  }
  // Read as signed, what is stored should be two's complement of the number, or of it less 2^(b-1) when it has no sign;
  // read as unsigned, the number, or what is larger by 2^(b-1) when it has one.
  const bool corrected = isSigned == unsignedOperand; // and then the field should be biased, too
  if (unsignedOperand && plan.unit.bytes == 1)
    plan.method = FieldPlan::Method::Masked;
  for (int i = 0; i < plan.unit.values; ++i) {
    Field &field = plan.fields[size_t(i)];
    if (plan.method == FieldPlan::Method::Masked)
      field.scale = i * packing.bits;
    else
      field.scale = packing.bits == 1 ? 0 : 8 - packing.bits; // one bit becomes 0 or -1
    field.offset = corrected ? (isSigned ? -half : half) : 0;
    field.flips = corrected != plan.unit.isBiased(i, packing.bias);
  }
  return plan;
}

} // namespace bitloom::loops
