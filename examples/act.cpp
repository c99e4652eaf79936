// Acts from an exported policy, without Python and PyTorch. How to build and run it: README.md.
//
//   act policy.safetensors                    actions for observations of zero
//   act policy.safetensors -                  for observations from standard input
//   act policy.safetensors --seed 1 --time    other noise; how long an action takes
//   act policy.safetensors --bf16             products of bf16 numbers, see docs/precision.md
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "cpu/policy.h"

int main(int argc, char** argv) {
  bool from_input = false, timed = false, half = false;
  dom2::cpu::Draws draws;
  for (int i = 2; i < argc; ++i) {
    const bool more = i + 1 < argc;
    if (!std::strcmp(argv[i], "-")) {
      from_input = true;
    } else if (!std::strcmp(argv[i], "--time")) {
      timed = true;
    } else if (!std::strcmp(argv[i], "--bf16")) {
      half = true;
    } else if (!std::strcmp(argv[i], "--seed") && more) {
      draws.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (!std::strcmp(argv[i], "--offset") && more) {
      draws.offset = static_cast<uint32_t>(std::strtoul(argv[++i], nullptr, 10));
    } else {
      argc = 0;
    }
  }
  if (argc < 2) {
    std::fprintf(stderr, "usage: act FILE [-] [--seed N] [--offset N] [--time] [--bf16]\n");
    return 2;
  }

  std::string why;
  const auto policy = dom2::cpu::Policy::load(argv[1], why, half);
  if (!policy) {
    std::fprintf(stderr, "act: %s\n", why.c_str());
    return 2;
  }

  // Observations are [agents, rows, obs_dim]: all rows of the first agent, then the next one's.
  const int64_t per_row = policy->agents() * policy->obs_dim();
  std::vector<float> obs(per_row, 0.f);
  if (from_input) {
    obs.clear();
    for (float v; std::cin >> v;) obs.push_back(v);
    if (!std::cin.eof() || obs.empty() || obs.size() % per_row) {
      std::fprintf(stderr, "act: %zu numbers were read; whole rows are multiples of %lld\n",
                   obs.size(), static_cast<long long>(per_row));
      return 2;
    }
  }
  const int64_t rows = static_cast<int64_t>(obs.size()) / per_row;
  std::vector<float> act(policy->agents() * rows * policy->act_dim());
  policy->sample(obs.data(), rows, draws, act.data());
  for (size_t i = 0; i < act.size(); ++i)  // nine digits give a float back exactly
    std::printf("%.9g%c", act[i], (i + 1) % policy->act_dim() ? ' ' : '\n');

  if (timed) {
    std::vector<double> took;
    for (int i = 0; i < 1000; ++i) {
      ++draws.offset;  // a control loop does this, too: other noise in every call
      const auto begin = std::chrono::steady_clock::now();
      policy->sample(obs.data(), rows, draws, act.data());
      const std::chrono::duration<double, std::micro> d = std::chrono::steady_clock::now() - begin;
      took.push_back(d.count());
    }
    std::nth_element(took.begin(), took.begin() + 500, took.end());
    std::fprintf(stderr, "%.1f us for %lld agents, %lld rows, %s (median of 1000)\n", took[500],
                 static_cast<long long>(policy->agents()), static_cast<long long>(rows),
                 dom2::cpu::active().name);
  }
}
