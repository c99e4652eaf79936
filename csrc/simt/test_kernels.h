// Kernels without a bug for simt_test.cpp, one per part of device.h, and what they must compute.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "../cuda/device.h"

namespace correct {

using namespace dom2::cuda;
using std::vector;

constexpr unsigned kAll = 0xffffffffu;

inline void expect(bool ok, const char* what) {
  if (ok) return;
  std::printf("not as expected: %s\n", what);
  std::exit(1);
}

#define EXPECT(condition) correct::expect(condition, #condition)

// --- barriers: two buffers in shared memory, sums of neighbours ---------------------------------
__global__ void __launch_bounds__(96) ping_pong(unsigned* out, int rounds) {
  DOM2_DYNAMIC_SHARED(raw);
  unsigned* s = reinterpret_cast<unsigned*>(raw);
  const unsigned t = threadIdx.x, n = blockDim.x;
  s[t] = t + 1000 * blockIdx.x;
  __syncthreads();
  for (int i = 0; i < rounds; ++i) {
    const unsigned* from = s + (i & 1 ? n : 0);
    unsigned* to = s + (i & 1 ? 0 : n);
    to[t] = from[t] + from[(t + 33) % n];
    __syncthreads();
  }
  out[blockIdx.x * n + t] = s[(rounds & 1 ? n : 0) + t];
}

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

// --- warp collectives, whole warps and parts of them --------------------------------------------
__global__ void collectives(const int* in, long long* out) {
  const int t = threadIdx.x, lane = t % 32;
  const int v = in[t];
  long long* mine = out + t * 16;
  int sum = v;
  for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(kAll, sum, i);
  mine[0] = sum;
  double down = v;
  for (int i = 16; i; i /= 2) down += __shfl_down_sync(kAll, down, i);
  mine[1] = static_cast<long long>(__shfl_sync(kAll, down, 0));
  unsigned scan = static_cast<unsigned>(v);
  for (int i = 1; i < 32; i *= 2) {
    const unsigned up = __shfl_up_sync(kAll, scan, i);
    if (lane >= i) scan += up;
  }
  mine[2] = scan;
  mine[3] = __shfl_sync(kAll, 1000000000000ll * v, (lane + 5) % 32);
  mine[4] = __shfl_down_sync(kAll, v, 3, 8);
  mine[5] = static_cast<long long>(__shfl_xor_sync(kAll, static_cast<float>(v), 4, 8));
  mine[6] = __ballot_sync(kAll, v & 1);
  mine[7] = __any_sync(kAll, lane == 7 && t > 31) + 2 * __all_sync(kAll, t > 31);
  if (lane < 12) {  // the two sides meet separately, each at its own mask
    mine[8] = __reduce_add_sync(0x00000fffu, v);
    mine[9] = __shfl_sync(0x00000fffu, v, 11);
    __syncwarp(0x00000fffu);
  } else {
    mine[8] = __reduce_max_sync(0xfffff000u, v);
    mine[9] = __reduce_min_sync(0xfffff000u, static_cast<unsigned>(v));
  }
  __syncwarp();
  mine[10] = __reduce_min_sync(kAll, v);
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
    EXPECT(got[10] == *std::min_element(w, w + 32));
  }
  return out;
}

// --- votes of the block, and threads that leave early --------------------------------------------
__global__ void votes(int* out) {
  const int t = threadIdx.x;
  if (t >= 70) return;  // what has exited doesn't count
  int* mine = out + t * 4;
  mine[0] = __syncthreads_count(t % 3 == 0);
  mine[1] = __syncthreads_or(t == 69) + 2 * __syncthreads_or(t == 70);
  mine[2] = __syncthreads_and(t < 70) + 2 * __syncthreads_and(t < 69);
  if (t >= 40) return;
  __syncthreads();
  mine[3] = __syncthreads_count(1);
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

// --- tensor cores -------------------------------------------------------------------------------
__global__ void multiply(const float* a, const float* b, const float* c, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t ra[4], rb[2];
  float acc[4];
  for (int i = 0; i < 4; ++i) {
    const float* from = a + (g + 8 * (i & 1)) * 16 + 2 * t + 8 * (i >> 1);
    ra[i] = pack_bf16(from[0], from[1]);
    acc[i] = c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)];
  }
  for (int i = 0; i < 2; ++i) {
    const int k = 2 * t + 8 * i;
    rb[i] = pack_bf16(b[k * 8 + g], b[(k + 1) * 8 + g]);
  }
  mma_bf16(acc, ra, rb);
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = acc[i];
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

// --- asynchronous copies: three stages, two of them on the way ----------------------------------
__global__ void pipeline(const float* x, const float* last, float* out, int tiles, int valid) {
  DOM2_DYNAMIC_SHARED(raw);
  const int t = threadIdx.x, n = blockDim.x;
  float* s = reinterpret_cast<float*>(raw);
  const auto fetch = [&](int tile) {
    if (tile < tiles)
      cp_async16_zero(s + (tile % 3 * n + t) * 4, x + (tile < valid ? tile * n + t : 0) * 4,
                      tile < valid);
    cp_async_commit();
  };
  fetch(0);
  fetch(1);
  float sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<1>();
    __syncthreads();
    fetch(tile + 2);
    const float4 v = load16<float4>(s + (tile % 3 * n + (t + 1) % n) * 4);
    sum = sum * 2 + (v.x - v.y) + (v.z - v.w) * 3;
  }
  cp_async_wait<0>();
  __syncthreads();
  cp_async4(s + t, last + t);
  cp_async16(s + 4 * n + 4 * t, x + 4 * t);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[t] = sum + s[n - 1 - t] + s[4 * n + 4 * ((t + 1) % n)];
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

// --- atomics, and the sum whose last block adds up (CUDA's guide, __threadfence) -----------------
struct Counters {
  int total, highest;
  unsigned blocks, wraps;
  unsigned long long big, highest_big;
  float real;
  int lock_free_max;
};

__global__ void count(const DOM2_GRID_CONSTANT int offset, Counters* c, int* partial, int* result) {
  DOM2_DYNAMIC_SHARED(raw);
  int* s = reinterpret_cast<int*>(raw);
  const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t + offset;
  atomicAdd(&c->total, i);
  atomicAdd(&c->wraps, 0xffffffffu);
  atomicAdd(&c->big, 1ull << 33);
  atomicAdd(&c->real, 0.5f);
  atomicMax(&c->highest, i % 97 - 200);
  atomicMax(&c->highest_big, static_cast<unsigned long long>(i));
  for (int old = 0, seen;; old = seen) {
    seen = atomicCAS(&c->lock_free_max, old, max(old, i));
    if (seen == old) break;
  }
  if (t == 0) s[0] = 0;
  __syncthreads();
  atomicAdd(&s[0], i);
  __syncthreads();
  if (t == 0) {
    partial[blockIdx.x] = s[0];
    __threadfence();
    s[1] = atomicAdd(&c->blocks, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (s[1] && t == 0) {
    int sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += partial[b];
    *result = sum;
  }
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

// --- wide accesses, three dimensions, names of CUDA's mathematics -------------------------------
__global__ void wide(const float* in, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  const unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  float4 v = load16_global<float4>(in + 4 * t);
  v.x += static_cast<float>(b);
  store16(raw + 16 * t, v);
  const float2 pair = load8<float2>(raw + 16 * t + 8);
  store8(raw + 16 * t, make_float2(pair.y, load8_global<float2>(in + 4 * t).x));
  const uint4 bits = load16<uint4>(raw + 16 * t);
  double sine, cosine;
  sincos(0.25 * t, &sine, &cosine);
  const float zero = static_cast<float>(sine * sine + cosine * cosine - 1) +
                     (expf(logf(2.0f)) - 2.0f) + (rsqrtf(4.0f) - 0.5f) + (__expf(0.0f) - 1.0f) +
                     tanhf(0.0f) + erff(0.0f) + (erfcf(0.0f) - 1.0f) + log1pf(0.0f) +
                     fmaf(2.0f, 3.0f, -6.0f) + fminf(fmaxf(0.0f, 1.0f), 0.0f) + sqrtf(0.0f);
  float* mine = out + 4 * (b * 24 + t);
  mine[0] = __uint_as_float(bits.x) + rintf(zero);
  mine[1] = __uint_as_float(bits.y);
  mine[2] = __ldg(in + 4 * t + 2) + static_cast<float>(__umulhi(0x80000000u, 2u * t));
  mine[3] = __uint_as_float(bits.w);
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

// --- what the host functions answer --------------------------------------------------------------
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
