#include "bitloom/lib/runtime/ThreadPool.h"

#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

namespace bitloom {

static thread_local bool insideLoop = false;

static inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory"); // "yield" is a no-op on most cores
#endif
}

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Waking a thread that sleeps costs its waker 2 to 15 µs, so one first stays awake for a while.
constexpr microseconds rareLoops(5), frequentLoops(100), endOfLoop(50);

// Blocks until the value is no longer `old`, at first awake for `patience`; gives the new value.
static uint32_t waitWhile(std::atomic<uint32_t> &value, uint32_t old, microseconds patience) {
  for (auto deadline = Clock::now() + patience; Clock::now() < deadline;) {
    for (int i = 0; i < 8; ++i) {
      uint32_t now = value.load(std::memory_order_acquire);
      if (now != old)
        return now;
      relax();
    }
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

static int checkedCount(int threads) {
  if (threads < 1 || threads > ThreadPool::maxThreads)
    throw UserError("expected a thread count from 1 to " + std::to_string(ThreadPool::maxThreads) + ", got " +
                    std::to_string(threads));
  return threads;
}

ThreadPool::ThreadPool(int threads) : threads(checkedCount(threads)) {}

ThreadPool::~ThreadPool() { stopWorkers(); }

void ThreadPool::setThreadCount(int count) {
  checkedCount(count);
  if (insideLoop)
    throw UserError("expected the thread count to be set outside of parallel loops");
  std::lock_guard<std::mutex> lock(owner);
  stopWorkers();
  threads.store(count, std::memory_order_relaxed);
}

void ThreadPool::startWorkers() {
  const int count = threadCount();
  parts = std::make_unique<Part[]>(count);
  try {
    for (int index = 1; index < count; ++index)
      workers.emplace_back(&ThreadPool::work, this, index, loop.load(std::memory_order_relaxed));
  } catch (const std::system_error &) {
    // The system's limit on threads: go on with those there are.
  }
}

void ThreadPool::stopWorkers() {
  stopping.store(true, std::memory_order_relaxed);
  loop.fetch_add(1, std::memory_order_release);
  loop.notify_all();
  for (std::thread &worker : workers)
    worker.join();
  workers.clear();
  parts.reset();
  stopping.store(false, std::memory_order_relaxed);
}

void ThreadPool::work(int index, uint32_t seen) {
  insideLoop = true;
  microseconds patience = rareLoops;
  for (;;) {
    auto idleSince = Clock::now();
    seen = waitWhile(loop, seen, patience);
    // The next pause is likely as long as this one: worth staying awake for when short.
    patience = Clock::now() - idleSince < frequentLoops ? frequentLoops : rareLoops;
    if (stopping.load(std::memory_order_relaxed))
      return;
    uint64_t ticket = tickets.load(std::memory_order_acquire);
    while (uint32_t(ticket) != 0)
      if (tickets.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        takeRanges(index % partCount);
        finished.fetch_add(1, std::memory_order_acq_rel);
        finished.notify_one();
        break;
      }
  }
}

void ThreadPool::takeRanges(int first) noexcept {
  for (int i = 0; i < partCount; ++i) {
    Part &part = parts[(first + i) % partCount];
    while (part.next.load(std::memory_order_relaxed) < part.end && !failed.load(std::memory_order_relaxed)) {
      int64_t begin = part.next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= part.end)
        break;
      try {
        (*body)(begin, std::min(begin + chunk, part.end));
      } catch (...) {
        if (!failed.exchange(true, std::memory_order_relaxed))
          failure = std::current_exception();
      }
    }
  }
}

void ThreadPool::parallelFor(int64_t total, int64_t grain, RangeFunction fn) {
  if (total <= 0)
    return;
  grain = std::max<int64_t>(grain, 1);
  std::unique_lock<std::mutex> lock(owner, std::defer_lock);
  if (threadCount() == 1 || total <= grain || insideLoop || !lock.try_lock()) {
    fn(0, total);
    return;
  }
  if (!parts)
    startWorkers();

  // One part a thread, of nearly equal lengths; four chunks a part bound the wait for the slowest.
  const int64_t shares = std::max<int64_t>(total / grain, 1);
  partCount = int(std::min<int64_t>(shares, int64_t(workers.size()) + 1));
  if (partCount == 1) {
    fn(0, total);
    return;
  }
  const int64_t share = total / partCount, longer = total % partCount;
  for (int64_t i = 0, begin = 0; i < partCount; ++i) {
    parts[i].next.store(begin, std::memory_order_relaxed);
    begin += share + (i < longer);
    parts[i].end = begin;
  }
  chunk = std::max(grain, (share + 3) / 4);
  body = &fn;
  failed.store(false, std::memory_order_relaxed);
  finished.store(0, std::memory_order_relaxed);

  const uint32_t helpers = uint32_t(partCount) - 1, number = loop.load(std::memory_order_relaxed) + 1;
  tickets.store(uint64_t(number) << 32 | helpers, std::memory_order_release);
  loop.store(number, std::memory_order_release);
  if (helpers * 2 > workers.size())
    loop.notify_all();
  else
    for (uint32_t i = 0; i < helpers; ++i)
      loop.notify_one();

  insideLoop = true;
  takeRanges(0);
  insideLoop = false;

  const uint32_t joined = helpers - uint32_t(tickets.exchange(uint64_t(number) << 32, std::memory_order_acq_rel));
  for (uint32_t done = finished.load(std::memory_order_acquire); done != joined;)
    done = waitWhile(finished, done, endOfLoop);
  if (failed.load(std::memory_order_relaxed))
    std::rethrow_exception(std::exchange(failure, nullptr));
}

// -------------------------------------------------------------------------------------------- the pool of the process

static int processorsAllowed() {
  int count = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    count = std::max(1, CPU_COUNT(&set));
  // "quota period" in µs, or "max period"; containers limit processors this way.
  std::ifstream limit("/sys/fs/cgroup/cpu.max");
  double quota, period;
  if (limit >> quota >> period && quota > 0 && period > 0)
    count = std::min(count, std::max(1, int(std::ceil(quota / period))));
#endif
  return std::min(count, ThreadPool::maxThreads);
}

static int initialThreadCount() {
  const char *text = std::getenv("BITLOOM_NUM_THREADS");
  if (!text || !*text)
    return processorsAllowed();
  int count = 0;
  const char *end = text + std::strlen(text);
  auto [stop, error] = std::from_chars(text, end, count);
  if (error != std::errc() || stop != end || count < 1 || count > ThreadPool::maxThreads)
    throw UserError("BITLOOM_NUM_THREADS: expected a number from 1 to " + std::to_string(ThreadPool::maxThreads) +
                    ", got '" + text + "'");
  return count;
}

// Never destroyed: threads may be asleep in it when the process exits.
static std::atomic<ThreadPool *> processPool{nullptr};
alignas(std::mutex) static unsigned char creationStorage[sizeof(std::mutex)];
static std::mutex &creation = *new (creationStorage) std::mutex;
static int countAfterFork = 0;

// The child has the forking thread alone: what other threads held or did is void.
static void forgetPool() {
  if (ThreadPool *pool = processPool.exchange(nullptr))
    countAfterFork = pool->threadCount();
  new (creationStorage) std::mutex;
  insideLoop = false;
}
[[maybe_unused]] static const int forkHandler = pthread_atfork(nullptr, nullptr, forgetPool);

ThreadPool &threadPool() {
  if (ThreadPool *pool = processPool.load(std::memory_order_acquire))
    return *pool;
  std::lock_guard<std::mutex> lock(creation);
  ThreadPool *pool = processPool.load(std::memory_order_relaxed);
  if (!pool) {
    pool = new ThreadPool(countAfterFork ? countAfterFork : initialThreadCount());
    processPool.store(pool, std::memory_order_release);
  }
  return *pool;
}

} // namespace bitloom
