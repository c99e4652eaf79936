// What a test may choose about an emulated launch: the order of threads, the seed, the pretended
// device. Plain host code.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

namespace simt {

enum class Schedule {
  forward,  // lanes and warps in order, each up to its next barrier or warp collective
  reverse,  // the same from the last thread to the first
  random,   // any thread that can run; may also change threads at atomics
  greedy,   // a lane, then its warp, as far as it can get before the next warp starts
};

// What is left empty comes from the environment, read at each launch: DOM2_SIMT_SCHEDULE (a name
// above) and DOM2_SIMT_SEED (a number); without them forward and 0.
struct Settings {
  std::optional<Schedule> schedule;
  std::optional<uint64_t> seed;
  // The device that the host functions describe: an H100.
  int multiprocessors = 132;
  int shared_per_block = 232448;  // bytes, with opt-in
  int capability_major = 9, capability_minor = 0;
};

inline Settings& settings() {
  static Settings chosen;
  return chosen;
}

inline Schedule current_schedule() {
  if (settings().schedule) return *settings().schedule;
  const char* name = std::getenv("DOM2_SIMT_SCHEDULE");
  if (!name || !*name || !std::strcmp(name, "forward")) return Schedule::forward;
  if (!std::strcmp(name, "reverse")) return Schedule::reverse;
  if (!std::strcmp(name, "random")) return Schedule::random;
  if (!std::strcmp(name, "greedy")) return Schedule::greedy;
  throw std::runtime_error(std::string("DOM2_SIMT_SCHEDULE is '") + name +
                           "'; it may be forward, reverse, random or greedy");
}

inline uint64_t current_seed() {
  if (settings().seed) return *settings().seed;
  const char* text = std::getenv("DOM2_SIMT_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

}  // namespace simt
