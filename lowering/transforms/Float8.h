// Conversions of 8-bit floats by integer arithmetic, for targets without instructions for them. Elements are held as
// i8; what is said of scalars holds of vectors too.
#pragma once

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"

namespace bitloom {

inline bool isFloat8(mlir::Type element) { return mlir::isa<mlir::Float8E4M3FNType, mlir::Float8E5M2Type>(element); }

// The f32 that the i8 `code` of the format stands for; a NaN is a quiet one.
mlir::Value widenFloat8(mlir::OpBuilder &, mlir::Location, mlir::Value code, mlir::Type format);
// The i8 of the number nearest to the f32 `value`, ties to even, saturating; a NaN is 0x7f. No step depends on how the
// processor treats subnormal numbers.
mlir::Value narrowToFloat8(mlir::OpBuilder &, mlir::Location, mlir::Value value, mlir::Type format);

} // namespace bitloom
