// What libFuzzer calls with ever new bytes: the C++ reader of exported policies, then acting with
// what it took. Built and run by tools/torture/reader.py.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/policy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string why;
  const auto policy =
      dom2::cpu::Policy::parse(reinterpret_cast<const char*>(data), size, why, size % 2 != 0);
  if (static_cast<bool>(policy) != why.empty()) std::abort();  // a policy, or a reason
  if (!policy) return 0;
  // A program may be large: what it may take is bounded by what the file holds, so no bound here.
  std::vector<float> obs(static_cast<size_t>(policy->agents() * policy->obs_dim()), 0.5f);
  std::vector<float> act(static_cast<size_t>(policy->agents() * policy->act_dim()));
  policy->sample(obs.data(), 1, {1, 2, nullptr, nullptr}, act.data());
  return 0;
}
