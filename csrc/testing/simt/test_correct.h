// What the kernels of test_kernels.h must compute, for simt_test.cpp.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "test_kernels.h"

namespace correct {

using std::vector;

inline void expect(bool ok, const char* what) {
  if (ok) return;
  std::printf("not as expected: %s\n", what);
  std::exit(1);
}

#define EXPECT(condition) correct::expect(condition, #condition)

inline vector<unsigned> run_ping_pong() {
  const int n = 96, blocks = 3, rounds = 7;
  vector<unsigned> out(n * blocks), now(n), next(n);
  EXPECT(launch(ping_pong, blocks, n, 2 * n * 4, nullptr, out.data(), rounds) == cudaSuccess);
  for (int b = 0; b < blocks; ++b) {
    for (int t = 0; t < n; ++t) now[t] = t + 1000 * b;
    for (int i = 0; i < rounds; ++i, now = next)
      for (int t = 0; t < n; ++t) next[t] = now[t] + now[(t + 33) % n];
    EXPECT(std::equal(now.begin(), now.end(), out.begin() + b * n));
  }
  return out;
}

inline vector<long long> run_collectives() {
  const int n = 64;
  vector<int> in(n);
  for (int t = 0; t < n; ++t) in[t] = (t * 37 + 11) % 101;
  vector<long long> out(n * 16);
  EXPECT(launch(collectives, 1, n, 0, nullptr, in.data(), out.data()) == cudaSuccess);
  for (int t = 0; t < n; ++t) {
    const int *w = &in[t / 32 * 32], lane = t % 32;
    const long long* got = &out[t * 16];
    const long long sum = std::accumulate(w, w + 32, 0);
    unsigned odd = 0;
    for (int i = 0; i < 32; ++i) odd |= static_cast<unsigned>(w[i] & 1) << i;
    EXPECT(got[0] == sum && got[1] == sum);
    EXPECT(got[2] == std::accumulate(w, w + lane + 1, 0));
    EXPECT(got[3] == 1000000000000ll * w[(lane + 5) % 32]);
    EXPECT(got[4] == w[lane % 8 + 3 < 8 ? lane + 3 : lane]);
    EXPECT(got[5] == w[lane ^ 4] && got[6] == odd);
    EXPECT(got[7] == (t > 31 ? 3 : 0));
    EXPECT(got[8] ==
           (lane < 12 ? std::accumulate(w, w + 12, 0) : *std::max_element(w + 12, w + 32)));
    EXPECT(got[9] == (lane < 12 ? w[11] : *std::min_element(w + 12, w + 32)));
    EXPECT(got[10] == *std::min_element(w, w + 32) && got[11] == sum - w[lane]);
  }
  return out;
}

inline vector<int> run_votes() {
  vector<int> out(70 * 4, -1);
  EXPECT(launch(votes, 1, 96, 0, nullptr, out.data()) == cudaSuccess);
  for (int t = 0; t < 70; ++t) {
    EXPECT(out[t * 4] == 24 && out[t * 4 + 1] == 1 && out[t * 4 + 2] == 1);
    EXPECT(out[t * 4 + 3] == (t < 40 ? 40 : -1));
  }
  return out;
}

// Rounding by the nearest of the two neighbours, not by the emulator's trick with the carry.
inline float bf16_value(float x) {
  const uint32_t bits = __float_as_uint(x) & 0xffff0000u;
  const float down = __uint_as_float(bits), up = __uint_as_float(bits + 0x10000);
  const double to_down = std::abs(double{x} - down), to_up = std::abs(double{up} - x);
  if (to_down == to_up) return bits >> 16 & 1 ? up : down;
  return to_down < to_up ? down : up;
}

inline vector<float> run_multiply() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  vector<float> a(16 * 16), b(16 * 8), c(16 * 8), d(16 * 8);
  for (vector<float>* m : {&a, &b, &c})
    for (float& x : *m) x = normal(random);
  EXPECT(launch(multiply, 1, 32, 0, nullptr, a.data(), b.data(), c.data(), d.data()) ==
         cudaSuccess);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      double sum = c[i * 8 + j];
      for (int k = 0; k < 16; ++k)
        sum += double{bf16_value(a[i * 16 + k])} * bf16_value(b[k * 8 + j]);
      EXPECT(d[i * 8 + j] == static_cast<float>(sum));
    }
  return d;
}

inline vector<float> run_pipeline() {
  const int n = 64, tiles = 7, valid = 5;
  vector<float> x(n * 4 * valid), last(n), out(n);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 31);
  for (int i = 0; i < n; ++i) last[i] = static_cast<float>(100 + i);
  EXPECT(launch(pipeline, 1, n, 3 * n * 16, nullptr, x.data(), last.data(), out.data(), tiles,
                valid) == cudaSuccess);
  for (int t = 0; t < n; ++t) {
    float sum = 0;
    for (int tile = 0; tile < tiles; ++tile) {
      const float* v = &x[(tile < valid ? tile * n + (t + 1) % n : 0) * 4];
      sum = sum * 2 + (tile < valid ? (v[0] - v[1]) + (v[2] - v[3]) * 3 : 0);
    }
    EXPECT(out[t] == sum + last[n - 1 - t] + x[4 * ((t + 1) % n)]);
  }
  return out;
}

inline vector<int> run_count() {
  const int n = 64, blocks = 5;
  Counters c{};
  c.highest = -1000;
  vector<int> partial(blocks, -1), result(1, -1);
  EXPECT(launch(count, blocks, n, 8, nullptr, 3, &c, partial.data(), result.data()) == cudaSuccess);
  const int all = n * blocks, sum = all * (all - 1) / 2 + 3 * all;
  EXPECT(result[0] == sum && c.total == sum && c.blocks == blocks);
  EXPECT(c.highest == 96 - 200 && c.wraps == 0u - all && c.lock_free_max == all + 2);
  EXPECT(c.big == static_cast<unsigned long long>(all) << 33 && c.real == 0.5f * all);
  EXPECT(c.highest_big == all + 2ull);
  return result;
}

inline vector<float> run_wide() {
  const dim3 grid(2, 3, 2), block(4, 3, 2);
  alignas(16) float in[24 * 4];
  for (int i = 0; i < 96; ++i) in[i] = static_cast<float>(i * 3 % 50);
  vector<float> out(12 * 24 * 4);
  EXPECT(launch(wide, grid, block, 24 * 16, nullptr, in, out.data()) == cudaSuccess);
  for (int b = 0; b < 12; ++b)
    for (int t = 0; t < 24; ++t) {
      const float *got = &out[4 * (b * 24 + t)], *v = in + 4 * t;
      EXPECT(got[0] == v[3] && got[1] == v[0] && got[2] == v[2] + t && got[3] == v[3]);
    }
  return out;
}

inline vector<int> run_many() {
  const int n = 512, blocks = 5;
  vector<int> out(n * blocks);
  EXPECT(launch(many, blocks, n, n * 4, nullptr, out.data()) == cudaSuccess);
  for (int i = 0; i < n * blocks; ++i) EXPECT(out[i] == (n - 1 - i % n) * (i / n));
  return out;
}

// What the host functions answer, and how floats are rounded.
inline void check_host() {
  unsigned out = 7;
  EXPECT(launch(ping_pong, 0, 96, 768, nullptr, &out, 1) == cudaSuccess && out == 7);
  EXPECT(launch(ping_pong, 1, 1025, 768, nullptr, &out, 1) == cudaErrorInvalidConfiguration);
  EXPECT(launch(ping_pong, 1, 0, 768, nullptr, &out, 1) == cudaErrorInvalidConfiguration);
  EXPECT(launch(ping_pong, 1, 96, 232449, nullptr, &out, 1) == cudaErrorInvalidValue && out == 7);
  int device = -1, value = 0;
  EXPECT(cudaGetDevice(&device) == cudaSuccess && device == 0);
  const auto attribute = [&](cudaDeviceAttr name) {
    EXPECT(cudaDeviceGetAttribute(&value, name, device) == cudaSuccess);
    return value;
  };
  EXPECT(attribute(cudaDevAttrMultiProcessorCount) == 132);
  EXPECT(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) == 232448);
  EXPECT(attribute(cudaDevAttrComputeCapabilityMajor) == 9);
  const simt::Settings before = simt::settings();
  simt::settings().capability_major = 7;
  simt::settings().capability_minor = 5;
  simt::settings().shared_per_block = 99 * 1024;
  EXPECT(attribute(cudaDevAttrComputeCapabilityMajor) == 7);
  EXPECT(attribute(cudaDevAttrComputeCapabilityMinor) == 5);
  EXPECT(launch(ping_pong, 1, 96, 99 * 1024 + 16, nullptr, &out, 1) == cudaErrorInvalidValue);
  simt::settings() = before;
  EXPECT(!std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument"));
  EXPECT(cudaMemsetAsync(&out, 0, sizeof out, nullptr) == cudaSuccess && out == 0);

  const float infinity = std::numeric_limits<float>::infinity(), nan = __uint_as_float(0xff800001u);
  EXPECT(pack_bf16(1.0f, -2.0f) == 0xc0003f80u);
  EXPECT(pack_bf16(1.00390625f, 1.01171875f) == 0x3f823f80u);  // ties go to even
  EXPECT(pack_bf16(1.00390637f, -1.0f) == 0xbf803f81u);
  EXPECT(pack_bf16(infinity, std::numeric_limits<float>::max()) == 0x7f807f80u);
  EXPECT(pack_bf16(nan, -0.0f) == 0x80007fffu);
}

}  // namespace correct
