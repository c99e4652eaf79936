// Eight threads act by one policy at once, each call split over threads of its own; every result
// must equal that of a quiet process. Built with -fsanitize=thread by tools/torture/sanitizers.py.
//
//   threads FILE CALLS
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "cpu/policy.h"

namespace {

constexpr int kThreads = 8, kRows = 37;

// As a caller's thread pool may do it: each body by whichever thread.
const dom2::cpu::Threads kSplit{3, [](int64_t n, const std::function<void(int64_t)>& body) {
                                  std::vector<std::thread> pool;
                                  for (int t = 0; t < 3; ++t)
                                    pool.emplace_back([&, t] {
                                      for (int64_t i = t; i < n; i += 3) body(i);
                                    });
                                  for (std::thread& thread : pool) thread.join();
                                }};

std::vector<float> act(const dom2::cpu::Policy& p, int call) {
  std::vector<float> obs(p.agents() * kRows * p.obs_dim()), out(p.agents() * kRows * p.act_dim());
  for (size_t i = 0; i < obs.size(); ++i) obs[i] = static_cast<float>((i * 7 + call) % 13) / 6 - 1;
  dom2::cpu::Draws draws;
  draws.seed = 5;
  draws.offset = static_cast<uint32_t>(call);
  p.sample(obs.data(), kRows, draws, out.data(), kSplit);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::string why;
  const auto policy = dom2::cpu::Policy::load(argv[1], why);
  if (!policy) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 2;
  }
  const int calls = std::atoi(argv[2]);
  std::vector<std::vector<float>> alone;
  for (int c = 0; c < calls; ++c) alone.push_back(act(*policy, c));
  std::vector<int> wrong(kThreads, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int c = 0; c < calls; ++c) {
        const int call = (c + t) % calls;
        wrong[t] += act(*policy, call) != alone[call];
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int w : wrong)
    if (w) return 1;
  return 0;
}
