// Tests of the emulator itself; python_tests/simt/test_simt.py compiles and runs them.
//   simt_test correct NAME [SEEDS]   a kernel under all schedules, with equal bits from all
//   simt_test bug NAME | fixed NAME  a planted bug, and the same kernel without it; the schedule is
//                                    taken from the environment
//   simt_test time                   what a change of threads costs
#include <chrono>

#include "test_bugs.h"

namespace {

template <class F>
int under_all_schedules(F run, unsigned seeds) {
  using simt::Schedule;
  const auto first = run();
  for (const Schedule schedule :
       {Schedule::forward, Schedule::reverse, Schedule::random, Schedule::greedy})
    for (unsigned seed = 0; seed < seeds; ++seed) {
      simt::settings().schedule = schedule;
      simt::settings().seed = seed;
      EXPECT(run() == first);
    }
  return 0;
}

int run_correct(const char* name, unsigned seeds) {
#define CORRECT(NAME) \
  if (!std::strcmp(name, #NAME)) return under_all_schedules(correct::run_##NAME, seeds)
  CORRECT(ping_pong);
  CORRECT(collectives);
  CORRECT(votes);
  CORRECT(multiply);
  CORRECT(pipeline);
  CORRECT(count);
  CORRECT(wide);
  CORRECT(many);
#undef CORRECT
  if (std::strcmp(name, "host")) return 2;
  correct::check_host();
  return 0;
}

__global__ void only_barriers(int n) {
  for (int i = 0; i < n; ++i) __syncthreads();
}

int time_switches() {
  const int n = 5000, threads = 256;
  const auto start = std::chrono::steady_clock::now();
  EXPECT(simt::launch(only_barriers, 1, threads, 0, n) == cudaSuccess);
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  std::printf("%.0f ns per thread and barrier\n", taken.count() / n / threads);
  return 0;
}

int run(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (!std::strcmp(what, "time")) return time_switches();
  if (argc < 3) return 2;
  if (!std::strcmp(what, "correct"))
    return run_correct(argv[2], argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 5);
  if (!std::strcmp(what, "bug")) return planted::run<true>(argv[2]) ? 0 : 2;
  if (!std::strcmp(what, "fixed")) return planted::run<false>(argv[2]) ? 0 : 2;
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
#ifdef DOM2_SIMT_THROW
  try {
    return run(argc, argv);
  } catch (const std::runtime_error& error) {
    std::printf("caught: %s\n", error.what());
    // The emulator must be as good as new.
    return run_correct("ping_pong", 2) + run_correct("pipeline", 2);
  }
#else
  return run(argc, argv);
#endif
}
