#include "bitloom/lowering/codegen/Jit.h"

#include "bitloom/lib/runtime/Hooks.h"
#include "bitloom/lib/support/Error.h"

#include "llvm/ExecutionEngine/Orc/AbsoluteSymbols.h"
#include "llvm/ExecutionEngine/Orc/EPCDynamicLibrarySearchGenerator.h"
#include "llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h"
#include "llvm/ExecutionEngine/Orc/SelfExecutorProcessControl.h"
#include "llvm/Support/MemoryBuffer.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#ifdef __x86_64__
// Of the compiler's run-time library. Named, since it may be loaded with RTLD_LOCAL.
extern "C" float __extendhfsf2(_Float16);
extern "C" double __extendhfdf2(_Float16);
extern "C" _Float16 __truncsfhf2(float);
extern "C" _Float16 __truncdfhf2(double);
#endif

namespace bitloom {

using namespace llvm::orc;

// What ORC reports besides the error that it returns, and often more of it: the names of missing symbols, say.
static thread_local std::string reported;

static void check(llvm::Error error) {
  if (!error)
    return;
  std::string text = "linking a kernel: " + llvm::toString(std::move(error)) + reported;
  reported.clear();
  throw InternalError(text);
}
template <class T> static T valueOf(llvm::Expected<T> expected) {
  check(expected.takeError());
  return std::move(*expected);
}

// ORC without LLJIT: that would make a compiler, and a platform with initialisers and thread-locals, which kernels
// lack.
class Linker {
public:
  // Never destroyed: kernels may still run while the process ends.
  static Linker &instance() {
    static Linker &linker = *new Linker;
    return linker;
  }

  JITDylib &add(std::string_view object) {
    JITDylib &library = session.createBareJITDylib("kernel" + std::to_string(count++));
    library.addToLinkOrder(runtime);
    auto buffer =
        llvm::MemoryBuffer::getMemBufferCopy(llvm::StringRef(object.data(), object.size()), library.getName());
    if (llvm::Error error = layer.add(library, std::move(buffer))) {
      remove(library);
      check(std::move(error));
    }
    return library;
  }
  CpuKernel find(JITDylib &library, const std::string &name) {
    return valueOf(session.lookup({&library}, name)).getAddress().toPtr<CpuKernel>();
  }
  void remove(JITDylib &library) { llvm::consumeError(session.removeJITDylib(library)); }

private:
  Linker()
      : session(valueOf(SelfExecutorProcessControl::Create())), layer(session),
        runtime(session.createBareJITDylib("runtime")) {
    // Linking runs on the thread that looks a symbol up.
    session.setErrorReporter([](llvm::Error error) { reported += "\n" + llvm::toString(std::move(error)); });
    SymbolMap symbols;
    auto define = [&](const char *name, auto *function) {
      symbols[session.intern(name)] = {ExecutorAddr::fromPtr(function), llvm::JITSymbolFlags::Exported};
    };
    define("bitloom_rt_assert", &bitloom_rt_assert);
    define("bitloom_rt_print", &bitloom_rt_print);
    define("aligned_alloc", &::aligned_alloc); // for tiles too large for a thread's stack
    define("free", &::free);
    // Named here since a process need not export its libm: it may be linked statically, or loaded with RTLD_LOCAL.
#define BITLOOM_LIBM(name)                                                                                             \
  define(#name, static_cast<double (*)(double)>(::name));                                                              \
  define(#name "f", static_cast<float (*)(float)>(::name##f));
    BITLOOM_LIBM(acos)
    BITLOOM_LIBM(acosh)
    BITLOOM_LIBM(asin)
    BITLOOM_LIBM(asinh)
    BITLOOM_LIBM(atan)
    BITLOOM_LIBM(atanh)
    BITLOOM_LIBM(cbrt)
    BITLOOM_LIBM(ceil)
    BITLOOM_LIBM(cos)
    BITLOOM_LIBM(cosh)
    BITLOOM_LIBM(erf)
    BITLOOM_LIBM(erfc)
    BITLOOM_LIBM(exp)
    BITLOOM_LIBM(exp2)
    BITLOOM_LIBM(expm1)
    BITLOOM_LIBM(floor)
    BITLOOM_LIBM(log)
    BITLOOM_LIBM(log10)
    BITLOOM_LIBM(log1p)
    BITLOOM_LIBM(log2)
    BITLOOM_LIBM(nearbyint)
    BITLOOM_LIBM(rint)
    BITLOOM_LIBM(round)
    BITLOOM_LIBM(roundeven)
    BITLOOM_LIBM(sin)
    BITLOOM_LIBM(sinh)
    BITLOOM_LIBM(sqrt)
    BITLOOM_LIBM(tan)
    BITLOOM_LIBM(tanh)
    BITLOOM_LIBM(trunc)
#undef BITLOOM_LIBM
#define BITLOOM_LIBM(name)                                                                                             \
  define(#name, static_cast<double (*)(double, double)>(::name));                                                      \
  define(#name "f", static_cast<float (*)(float, float)>(::name##f));
    BITLOOM_LIBM(atan2)
    BITLOOM_LIBM(fmax)
    BITLOOM_LIBM(fmin)
    BITLOOM_LIBM(fmod)
    BITLOOM_LIBM(pow)
#undef BITLOOM_LIBM
    define("fma", static_cast<double (*)(double, double, double)>(::fma));
    define("fmaf", static_cast<float (*)(float, float, float)>(::fmaf));
    define("aligned_alloc", &std::aligned_alloc);
    define("free", &std::free);
#ifdef __x86_64__ // conversions of f16 on processors without them
    define("__extendhfsf2", &__extendhfsf2);
    define("__extendhfdf2", &__extendhfdf2);
    define("__truncsfhf2", &__truncsfhf2);
    define("__truncdfhf2", &__truncdfhf2);
#endif
    define("memcpy", &std::memcpy);
    define("memmove", &std::memmove);
    define("memset", &std::memset);
    check(runtime.define(absoluteSymbols(std::move(symbols))));
    // Whatever else the compiler's own run-time library has.
    runtime.addGenerator(valueOf(EPCDynamicLibrarySearchGenerator::GetForTargetProcess(session)));
  }

  ExecutionSession session;
  ObjectLinkingLayer layer;
  JITDylib &runtime;
  std::atomic<unsigned> count{0};
};

struct LoadedObject::Library {
  JITDylib &dylib;
  ~Library() { Linker::instance().remove(dylib); }
};

LoadedObject::LoadedObject(std::string_view object, const std::string &entry)
    : library(new Library{Linker::instance().add(object)}), function(Linker::instance().find(library->dylib, entry)) {}

LoadedObject::~LoadedObject() = default;

} // namespace bitloom
