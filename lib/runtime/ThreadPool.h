// Spreads loops over threads with little delay. Kernels on the CPU run their grid through it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace bitloom {

// A call of fn(begin, end), borrowed: what it refers to outlives the loop.
class RangeFunction {
public:
  template <class Fn>
    requires(!std::is_same_v<std::remove_cvref_t<Fn>, RangeFunction>)
  RangeFunction(Fn &&fn)
      : object(const_cast<void *>(static_cast<const void *>(std::addressof(fn)))),
        call([](void *object, int64_t begin, int64_t end) {
          (*static_cast<std::remove_reference_t<Fn> *>(object))(begin, end);
        }) {}
  void operator()(int64_t begin, int64_t end) const { call(object, begin, end); }

private:
  void *object;
  void (*call)(void *, int64_t, int64_t);
};

// The threads beside the caller start with the first loop that needs them, and sleep soon after the last:
// 5 µs later, or 100 where loops have been coming at that pace.
class ThreadPool {
public:
  static constexpr int maxThreads = 1024;

  explicit ThreadPool(int threads); // the caller's included; 1 to maxThreads, else UserError
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  int threadCount() const { return threads.load(std::memory_order_relaxed); }
  // Waits for the loop in flight. UserError: threads outside 1 to maxThreads, or called from inside a loop.
  void setThreadCount(int threads);

  // Calls fn over disjoint ranges that cover [0, total), none shorter than `grain` (at least 1) but the last of each
  // thread's part, and returns when all have returned. A thread starts in the same part of [0, total) each time and
  // takes over from the others once its own is done. Inside another loop, or while another thread's loop holds the
  // pool, it is one call of fn(0, total) on the caller. An exception of fn is thrown again here (the first, where
  // several are thrown); which of the remaining ranges then still run is open.
  void parallelFor(int64_t total, int64_t grain, RangeFunction fn);

private:
  struct alignas(64) Part { // [next, end) of the loop is left to take; next overshoots
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void startWorkers();
  void stopWorkers();
  void work(int index, uint32_t seen);
  void takeRanges(int first) noexcept;

  std::atomic<int> threads;
  std::mutex owner; // held by the thread whose loop runs, and while workers start or stop
  std::vector<std::thread> workers;

  // The loop in flight: written by the owner while no worker is in it.
  const RangeFunction *body = nullptr;
  std::unique_ptr<Part[]> parts;
  int partCount = 0;
  int64_t chunk = 1;
  std::exception_ptr failure;
  std::atomic<bool> failed{false};

  // Places for workers in loop number t >> 32: (t & 0xffffffff) are left. The owner takes the rest back when it has run
  // out of ranges, so that it never waits for a thread that has yet to wake.
  alignas(64) std::atomic<uint64_t> tickets{0};
  alignas(64) std::atomic<uint32_t> loop{0};     // number of the newest loop; what idle workers wait on
  alignas(64) std::atomic<uint32_t> finished{0}; // workers that left the loop in flight; what the owner waits on
  std::atomic<bool> stopping{false};
};

// The pool of the process. At first as wide as $BITLOOM_NUM_THREADS (UserError unless a number from 1 to 1024), else as
// the processors this process may use (affinity, and the quota of its control group). A forked child gets its own.
ThreadPool &threadPool();
inline int threadCount() { return threadPool().threadCount(); }
inline void setThreadCount(int threads) { threadPool().setThreadCount(threads); }
inline void parallelFor(int64_t total, int64_t grain, RangeFunction fn) { threadPool().parallelFor(total, grain, fn); }

} // namespace bitloom
