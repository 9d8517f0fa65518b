#include "bitloom/lib/runtime/ThreadPool.h"

#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <set>
#include <stdexcept>

#include <sys/wait.h>
#include <unistd.h>

using namespace bitloom;

// Each element of [0, total) exactly once, in ranges of at least `grain` where the total allows.
static void expectCover(ThreadPool &pool, int64_t total, int64_t grain) {
  std::vector<std::atomic<int>> seen(total);
  std::atomic<int64_t> calls{0};
  pool.parallelFor(total, grain, [&](int64_t begin, int64_t end) {
    ++calls;
    ASSERT_LT(begin, end);
    for (int64_t i = begin; i < end; ++i)
      ++seen[i];
  });
  for (int64_t i = 0; i < total; ++i)
    ASSERT_EQ(seen[i], 1) << i << " of " << total << ", grain " << grain;
  if (total > 0)
    EXPECT_LE(calls, std::max<int64_t>(total / std::max<int64_t>(grain, 1), 1) + pool.threadCount());
}

TEST(ThreadPool, CoversEveryIndexOnce) {
  for (int threads : {1, 2, 3, 7, 16}) {
    ThreadPool pool(threads);
    for (int64_t total : {0, 1, 2, 3, 17, 199, 4097})
      for (int64_t grain : {0, 1, 3, 64, 5000})
        expectCover(pool, total, grain);
  }
}

TEST(ThreadPool, ManyShortLoops) {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 20000; ++i)
    pool.parallelFor(17, 1, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at)
        sum.fetch_add(at, std::memory_order_relaxed);
    });
  EXPECT_EQ(sum, 20000 * (16 * 17 / 2));
}

// Two ranges that wait for each other need two threads.
TEST(ThreadPool, RunsAtTheSameTime) {
  ThreadPool pool(2);
  for (int i = 0; i < 20; ++i) {
    std::mutex mutex;
    std::condition_variable changed;
    int arrived = 0;
    bool met = false;
    pool.parallelFor(2, 1, [&](int64_t, int64_t) {
      std::unique_lock<std::mutex> lock(mutex);
      ++arrived;
      changed.notify_all();
      met |= changed.wait_for(lock, std::chrono::seconds(20), [&] { return arrived == 2; });
    });
    ASSERT_TRUE(met);
    if (i % 4 == 0)
      usleep(2000); // the next starts from sleep, the others from the spin
  }
}

static double processSeconds() {
  timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return double(used.tv_sec) + 1e-9 * double(used.tv_nsec);
}

TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(8);
  for (int i = 0; i < 100; ++i)
    expectCover(pool, 199, 1);
  const double before = processSeconds();
  usleep(300000);
  EXPECT_LT(processSeconds() - before, 0.03); // seven threads that span would use 0.3 or more
}

// Threads of somebody else's pool call kernels beside each other: all finish, and none waits for another's loop.
TEST(ThreadPool, ServesAnotherPoolsThreads) {
  ThreadPool ours(2), theirs(4);
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 50; ++i)
    theirs.parallelFor(8, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task)
        std::thread([&] { // a thread that is inside no loop, as another library's are
          ours.parallelFor(199, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
        })
            .join();
    });
  EXPECT_EQ(sum, 50 * 8 * 199);
}

TEST(ThreadPool, NestedLoopsRunOnTheirCaller) {
  ThreadPool pool(3);
  std::atomic<int64_t> count{0};
  pool.parallelFor(17, 1, [&](int64_t begin, int64_t end) {
    auto self = std::this_thread::get_id();
    for (int64_t i = begin; i < end; ++i) {
      int calls = 0;
      pool.parallelFor(199, 1, [&](int64_t first, int64_t last) {
        EXPECT_EQ(std::this_thread::get_id(), self);
        ++calls;
        count += last - first;
      });
      EXPECT_EQ(calls, 1);
    }
  });
  EXPECT_EQ(count, 17 * 199);
}

TEST(ThreadPool, ExceptionsReachTheCallerAndThePoolLivesOn) {
  ThreadPool pool(4);
  for (int64_t bad : {0, 1, 100, 198}) {
    try {
      pool.parallelFor(199, 1, [&](int64_t begin, int64_t end) {
        if (begin <= bad && bad < end)
          throw std::runtime_error("at " + std::to_string(bad));
      });
      FAIL() << "expected an exception";
    } catch (const std::runtime_error &error) {
      EXPECT_EQ(error.what(), "at " + std::to_string(bad));
    }
    expectCover(pool, 199, 1);
  }
  // Thrown by all: one arrives, the others vanish.
  EXPECT_THROW(pool.parallelFor(4097, 1, [](int64_t, int64_t) { throw 7; }), int);
  expectCover(pool, 17, 1);
}

TEST(ThreadPool, SeveralCallersAtOnce) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        std::atomic<int64_t> sum{0};
        pool.parallelFor(199, 1, [&](int64_t begin, int64_t end) {
          for (int64_t at = begin; at < end; ++at)
            sum += at;
        });
        wrong += sum != 198 * 199 / 2;
      }
    });
  for (std::thread &caller : callers)
    caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, ChangesItsWidthBetweenLoops) {
  ThreadPool pool(2);
  for (int threads : {5, 1, 3, 2}) {
    pool.setThreadCount(threads);
    EXPECT_EQ(pool.threadCount(), threads);
    expectCover(pool, 199, 1);
  }
  EXPECT_THROW(pool.setThreadCount(0), UserError);
  EXPECT_THROW(pool.setThreadCount(-3), UserError);
  EXPECT_THROW(pool.setThreadCount(ThreadPool::maxThreads + 1), UserError);
  EXPECT_EQ(pool.threadCount(), 2);
  EXPECT_THROW(pool.parallelFor(4, 1, [&](int64_t, int64_t) { pool.setThreadCount(4); }), UserError);
}

TEST(ThreadPool, OneThreadMeansTheCaller) {
  ThreadPool pool(1);
  std::set<std::thread::id> ids;
  pool.parallelFor(4097, 1, [&](int64_t, int64_t) { ids.insert(std::this_thread::get_id()); });
  EXPECT_EQ(ids, std::set{std::this_thread::get_id()});
}

// Runs `body` in a fork and gives its exit status.
template <class Body> static int inChild(Body body) {
  pid_t child = fork();
  if (child == 0) {
    alarm(30);
    _exit(body());
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(ThreadPool, AForkedChildGetsItsOwnThreads) {
  setThreadCount(3);
  auto sum = [] {
    std::atomic<int64_t> sum{0};
    parallelFor(199, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    return sum.load();
  };
  EXPECT_EQ(sum(), 199);
  EXPECT_EQ(inChild([&] { return threadCount() == 3 && sum() == 199 && sum() == 199 ? 0 : 1; }), 0);
  EXPECT_EQ(sum(), 199);
}

// A new process, since the variable is read once.
TEST(ThreadPoolDeathTest, ReadsItsWidthFromTheEnvironment) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto report = [](const char *value) {
    setenv("BITLOOM_NUM_THREADS", value, 1);
    try {
      fprintf(stderr, "%d threads", threadCount());
    } catch (const UserError &error) {
      fprintf(stderr, "%s", error.what());
    }
    _exit(0);
  };
  EXPECT_EXIT(report("7"), testing::ExitedWithCode(0), "^7 threads");
  for (const char *bad : {"0", "-1", "two", "4x", " 4", "99999999999"})
    EXPECT_EXIT(report(bad), testing::ExitedWithCode(0),
                std::string("BITLOOM_NUM_THREADS: expected a number from 1 to 1024, got '") + bad + "'");
}
