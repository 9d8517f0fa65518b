#include "bitloom/lowering/Recovery.h"

#include "llvm/Support/CrashRecoveryContext.h"
#include "llvm/Support/ErrorHandling.h"

#include <exception>
#include <mutex>

namespace bitloom {

static thread_local std::string fatalReason;

// LLVM calls abort() next, which the recovery context catches.
static void recordFatal(void *, const char *reason, bool) { fatalReason = reason; }

// Both are switches of the whole process, turned on by the first thread that compiles and off by the last.
class RecoveryScope {
public:
  RecoveryScope() {
    std::lock_guard lock(mutex());
    if (users()++)
      return;
    llvm::CrashRecoveryContext::Enable();
    llvm::install_fatal_error_handler(recordFatal);
  }
  ~RecoveryScope() {
    std::lock_guard lock(mutex());
    if (--users())
      return;
    llvm::remove_fatal_error_handler();
    llvm::CrashRecoveryContext::Disable();
  }

private:
  static std::mutex &mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static int &users() {
    static int users = 0;
    return users;
  }
};

std::optional<std::string> recoverCrash(llvm::function_ref<void()> work) {
  RecoveryScope scope;
  fatalReason.clear();
  std::exception_ptr thrown; // carried around the recovery context, which is compiled without exceptions
  llvm::CrashRecoveryContext recovery;
  bool finished = recovery.RunSafely([&] {
    try {
      work();
    } catch (...) {
      thrown = std::current_exception();
    }
  });
  if (!finished)
    return fatalReason;
  if (thrown)
    std::rethrow_exception(thrown);
  return std::nullopt;
}

} // namespace bitloom
