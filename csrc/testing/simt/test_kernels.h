// Kernels without a bug, one per part of device.h; test_correct.h says what they must compute.
// nvcc compiles this file too, so that what runs here is known to be CUDA.
#pragma once
#include "../../cuda/device.h"

namespace correct {

using namespace dom2::cuda;

constexpr unsigned kAll = 0xffffffffu;

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
  mine[11] = 0;  // every pair of lanes by itself
  for (int i = 1; i < 32; ++i) mine[11] += __shfl_xor_sync(1u << lane | 1u << (lane ^ i), v, i);
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

// --- more threads than TSan can tell apart at once
// ------------------------------------------------
__global__ void many(int* out) {
  DOM2_DYNAMIC_SHARED(raw);
  int* s = reinterpret_cast<int*>(raw);
  const int t = threadIdx.x, n = blockDim.x;
  s[t] = t * blockIdx.x;
  __syncthreads();
  out[blockIdx.x * n + t] = s[n - 1 - t];
}

}  // namespace correct
