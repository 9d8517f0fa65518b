#include "bitloom/lowering/targets/aarch64/ScheduleProducts.h"

#include "bitloom/lowering/codegen/Codegen.h"

#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/IntrinsicsAArch64.h"
#include "llvm/IR/Module.h"

#include <algorithm>
#include <map>

namespace bitloom {

namespace {
constexpr int64_t vectorBytes = 16, together = 4;
constexpr size_t fewest = 16; // products of a part of a block that is worth it

// Instructions by which operands are ahead of the product that wants them: an in-order processor issues two or three in
// a cycle, and waits three cycles for an operation on bytes and four for a load (Arm, Cortex-A510 Software Optimization
// Guide).
constexpr int operationsAhead = 4, loadsAhead = 8;

bool isMatrixProduct(const llvm::Instruction &instruction) {
  auto *call = llvm::dyn_cast<llvm::IntrinsicInst>(&instruction);
  switch (call ? call->getIntrinsicID() : llvm::Intrinsic::not_intrinsic) {
  case llvm::Intrinsic::aarch64_neon_smmla:
  case llvm::Intrinsic::aarch64_neon_ummla:
  case llvm::Intrinsic::aarch64_neon_usmmla:
  case llvm::Intrinsic::aarch64_neon_bfmmla:
    return true;
  default:
    return false;
  }
}

bool isProduct(const llvm::Instruction &instruction) {
  auto *call = llvm::dyn_cast<llvm::IntrinsicInst>(&instruction);
  switch (call ? call->getIntrinsicID() : llvm::Intrinsic::not_intrinsic) {
  case llvm::Intrinsic::aarch64_neon_sdot:
  case llvm::Intrinsic::aarch64_neon_udot:
  case llvm::Intrinsic::aarch64_neon_usdot:
    return true;
  default:
    return isMatrixProduct(instruction);
  }
}

bool isBarrier(const llvm::Instruction &instruction) {
  return instruction.mayWriteToMemory() || instruction.isTerminator() || llvm::isa<llvm::PHINode>(instruction);
}

//===- Loads ------------------------------------------------------------------------------------------------------===//

// Loads of vectors with one base, by their distance from it.
using Run = std::map<int64_t, llvm::LoadInst *>;

llvm::Value *opaque(llvm::IRBuilder<> &builder, llvm::Value *value) {
  auto *type = llvm::FunctionType::get(value->getType(), {value->getType()}, false);
  llvm::CallInst *same = builder.CreateCall(llvm::InlineAsm::get(type, "", "=r,0", /*hasSideEffects=*/false), {value});
  same->setDoesNotAccessMemory();
  return same;
}

// Neighbours that one instruction loads: four of them, three, or the two that four others leave.
struct Group {
  int64_t first; // its distance
  llvm::SmallVector<llvm::LoadInst *, together> loads{};
};
llvm::SmallVector<Group> groupsOf(const Run &run) {
  llvm::SmallVector<Group> groups;
  for (auto it = run.begin(); it != run.end();) {
    llvm::SmallVector<llvm::LoadInst *> neighbours;
    const int64_t first = it->first;
    for (; it != run.end() && it->first == first + int64_t(neighbours.size()) * vectorBytes; ++it)
      neighbours.push_back(it->second);
    const size_t count = neighbours.size();
    for (size_t at = 0; at + 1 < count; at += together) {
      Group group{.first = first + int64_t(at) * vectorBytes};
      for (size_t i = at; i < std::min<size_t>(at + together, count); ++i)
        group.loads.push_back(neighbours[i]);
      if (group.loads.size() > 2 || at)
        groups.push_back(group);
    }
  }
  return groups;
}

// By `ld1`, which also moves on its pointer, by what it loads or by a register. That is kept out of LLVM's sight, or it
// would compute each pointer from the first one, by an instruction of its own.
void join(llvm::Value *base, const Run &run, llvm::BasicBlock &block) {
  constexpr llvm::Intrinsic::ID instructions[] = {
      llvm::Intrinsic::aarch64_neon_ld1x2, llvm::Intrinsic::aarch64_neon_ld1x3, llvm::Intrinsic::aarch64_neon_ld1x4};
  constexpr size_t mostDistances = 2; // that are held in registers
  std::map<int64_t, llvm::Value *> distances;
  auto inRegister = [&](int64_t distance) -> llvm::Value * {
    if (auto it = distances.find(distance); it != distances.end())
      return it->second;
    if (distances.size() == mostDistances)
      return nullptr;
    llvm::IRBuilder<> builder(&*block.getFirstInsertionPt());
    return distances[distance] = opaque(builder, builder.getInt64(uint64_t(distance)));
  };
  llvm::Value *next = nullptr;
  llvm::Instruction *last = nullptr;
  const llvm::SmallVector<Group> groups = groupsOf(run);
  for (auto [number, group] : llvm::enumerate(groups)) {
    llvm::Instruction *earliest = group.loads[0];
    for (llvm::LoadInst *load : group.loads)
      if (load->comesBefore(earliest))
        earliest = load;
    llvm::IRBuilder<> builder(earliest);
    const bool follows = next && last->comesBefore(earliest);
    llvm::Value *pointer = follows ? next : builder.CreatePtrAdd(base, builder.getInt64(uint64_t(group.first)));
    llvm::Type *types[] = {group.loads[0]->getType(), pointer->getType()};
    llvm::CallInst *all = builder.CreateIntrinsic(instructions[group.loads.size() - 2], types, {pointer});
    const int64_t own = int64_t(group.loads.size()) * vectorBytes;
    const int64_t distance = number + 1 < groups.size() ? groups[number + 1].first - group.first : own;
    llvm::Value *by = distance == own ? builder.getInt64(uint64_t(own)) : inRegister(distance);
    next = by ? opaque(builder, builder.CreatePtrAdd(pointer, by)) : nullptr;
    last = all;
    for (auto [i, load] : llvm::enumerate(group.loads))
      load->replaceAllUsesWith(builder.CreateExtractValue(all, unsigned(i)));
    for (llvm::LoadInst *load : group.loads)
      load->eraseFromParent();
  }
}

// Neighbours from two pointers, so that LLVM does not pair them: large cores dispatch a pair as three operations
// (LLVM's models of Neoverse N2 and V2), and where products of matrices are many, dispatch is the bound.
void separate(llvm::Value *base, const Run &run) {
  llvm::Instruction *earliest = run.begin()->second;
  for (auto &[offset, load] : run)
    if (load->comesBefore(earliest))
      earliest = load;
  llvm::IRBuilder<> builder(earliest);
  llvm::Value *other = opaque(builder, builder.CreatePtrAdd(base, builder.getInt64(vectorBytes)));
  for (auto &[offset, load] : run)
    if ((offset - run.begin()->first) / vectorBytes % 2) {
      builder.SetInsertPoint(load);
      load->setOperand(0, builder.CreatePtrAdd(other, builder.getInt64(uint64_t(offset - vectorBytes))));
    }
}

void arrangeLoads(llvm::ArrayRef<llvm::Instruction *> part) {
  llvm::BasicBlock &block = *part[0]->getParent();
  const llvm::DataLayout &layout = part[0]->getDataLayout();
  auto *bytes = llvm::FixedVectorType::get(llvm::Type::getInt8Ty(part[0]->getContext()), vectorBytes);
  auto *bfloats = llvm::FixedVectorType::get(llvm::Type::getBFloatTy(part[0]->getContext()), vectorBytes / 2);
  struct Stream {
    llvm::Value *base;
    Run loads;
    bool multiplied = true; // as they are
  };
  llvm::SmallVector<Stream> streams;
  llvm::DenseMap<llvm::Value *, size_t> numbers;
  for (llvm::Instruction *instruction : part) {
    auto *load = llvm::dyn_cast<llvm::LoadInst>(instruction);
    if (!load || !load->isSimple() || (load->getType() != bytes && load->getType() != bfloats))
      continue;
    llvm::APInt offset(64, 0);
    llvm::Value *base =
        load->getPointerOperand()->stripAndAccumulateConstantOffsets(layout, offset, /*AllowNonInbounds=*/true);
    auto [it, isNew] = numbers.try_emplace(base, streams.size());
    if (isNew)
      streams.push_back({.base = base, .loads = {}});
    Stream &stream = streams[it->second];
    stream.loads.try_emplace(offset.getSExtValue(), load);
    for (llvm::User *user : load->users())
      stream.multiplied &= isMatrixProduct(*llvm::cast<llvm::Instruction>(user));
  }
  // A part that only adds to sums is the body of a long loop; where sums begin, their ends are near, and take more
  // instructions than those loads.
  const auto matrices = llvm::count_if(part, [](auto *instruction) { return isMatrixProduct(*instruction); });
  const bool begins = llvm::any_of(part, [](auto *instruction) {
    return isMatrixProduct(*instruction) && llvm::isa<llvm::Constant>(instruction->getOperand(0));
  });
  constexpr int64_t many = 128;
  size_t longest = 0;
  for (const Stream &stream : streams)
    longest = std::max(longest, stream.loads.size());
  for (const Stream &stream : streams)
    if (stream.multiplied && matrices >= many) {
      if (!begins)
        separate(stream.base, stream.loads);
    } else if (matrices || stream.loads.size() * 4 > longest) { // the others' registers are in use for long
      join(stream.base, stream.loads, block);
    }
}

//===- Order ------------------------------------------------------------------------------------------------------===//

void order(llvm::ArrayRef<llvm::Instruction *> part, llvm::Instruction *end) {
  llvm::DenseMap<const llvm::Instruction *, int> ahead; // by how many instructions
  llvm::DenseSet<const llvm::Value *> late;             // products, and what is made of them
  for (llvm::Instruction *instruction : part)
    if (isProduct(*instruction) ||
        llvm::any_of(instruction->operands(), [&](const llvm::Use &use) { return late.contains(use.get()); }))
      late.insert(instruction);
  for (llvm::Instruction *instruction : llvm::reverse(part)) {
    int own = late.contains(instruction) ? 0 : instruction->mayReadFromMemory() ? loadsAhead : operationsAhead;
    for (const llvm::User *user : instruction->users())
      if (auto it = ahead.find(llvm::cast<llvm::Instruction>(user)); it != ahead.end())
        own = std::max(own, it->second);
    ahead[instruction] = own;
  }
  struct Entry {
    int place;
    size_t number;
    llvm::Instruction *instruction;
  };
  llvm::SmallVector<Entry> sorted;
  int count = 0;
  for (llvm::Instruction *instruction : part) {
    sorted.push_back({count - ahead[instruction], sorted.size(), instruction});
    const bool isFree =
        llvm::isa<llvm::GetElementPtrInst, llvm::ExtractValueInst, llvm::CastInst, llvm::ShuffleVectorInst>(
            instruction) ||
        (llvm::isa<llvm::CallInst>(instruction) && llvm::cast<llvm::CallInst>(instruction)->isInlineAsm());
    count += !isFree;
  }
  std::sort(sorted.begin(), sorted.end(),
            [](auto &a, auto &b) { return std::pair(a.place, a.number) < std::pair(b.place, b.number); });
  for (Entry &entry : sorted)
    entry.instruction->moveBefore(end->getIterator());
}

// The parts of a block between what may write to memory.
void forParts(llvm::BasicBlock &block,
              llvm::function_ref<void(llvm::ArrayRef<llvm::Instruction *>, llvm::Instruction *)> visit) {
  llvm::SmallVector<llvm::Instruction *> part;
  for (llvm::Instruction &instruction : llvm::make_early_inc_range(block)) {
    if (!isBarrier(instruction)) {
      part.push_back(&instruction);
      continue;
    }
    if (size_t(llvm::count_if(part, [](auto *each) { return isProduct(*each); })) >= fewest)
      visit(part, &instruction);
    part.clear();
  }
}
} // namespace

void scheduleProducts(llvm::Module &module) {
  for (llvm::Function &function : module)
    for (llvm::BasicBlock &block : function) {
      forParts(block, [&](llvm::ArrayRef<llvm::Instruction *> part, llvm::Instruction *) { arrangeLoads(part); });
      forParts(block, [&](llvm::ArrayRef<llvm::Instruction *> part, llvm::Instruction *end) {
        order(part, end);
        function.addFnAttr(scheduledAttribute);
      });
    }
}

} // namespace bitloom
