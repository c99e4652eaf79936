// Kernels with a planted bug each, for simt_test.cpp. With kBug false the same kernel is correct,
// so a test can tell the bug from its surroundings. TSan must name the lines with a "race:"
// comment.
#pragma once
#include <cmath>
#include <memory>

#include "test_correct.h"

namespace planted {

using namespace dom2::cuda;
using correct::kAll;
using std::vector;

constexpr int kThreads = 128;

// --- shared memory
// --------------------------------------------------------------------------------
template <bool kBug>
__global__ void missing_wait(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  cp_async16(s + 4 * t, x + 4 * t);
  cp_async_commit();
  if (!kBug) cp_async_wait<0>();
  out[t] = s[4 * t];
  cp_async_wait<0>();
}

template <bool kBug>
__global__ void missing_barrier(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t] = x[t];
  if (!kBug) __syncthreads();
  out[t] = s[(t + 1) % kThreads];  // race: missing_barrier
}

// The copy has landed for the thread that waited, not for the others.
template <bool kBug>
__global__ void missing_copy_barrier(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  cp_async4(s + t, x + t);
  cp_async_commit();
  cp_async_wait<0>();
  if (!kBug) __syncthreads();
  out[t] = s[(t + 1) % kThreads];  // race: missing_copy_barrier
}

// Warps in lock-step read all before one writes; a warp that runs ahead writes too early.
template <bool kBug>
__global__ void write_after_read(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  for (int i = 0; i < 3; ++i) {
    float v = s[(t + 32) % kThreads];  // race: write_after_read
    for (int k = 16; k; k /= 2) v += __shfl_xor_sync(kAll, v, k);
    if (!kBug) __syncthreads();
    s[t] = v * 0.125f;
    __syncthreads();
  }
  out[t] = s[t];
}

template <bool kBug>
__global__ void missing_syncwarp(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t] = x[t];
  if (!kBug) __syncwarp();
  out[t] = s[t ^ 1];  // race: missing_syncwarp
}

template <bool kBug>
__global__ void warp_write_after_read(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp();
  for (int i = 0; i < 3; ++i) {
    const float v = s[t ^ 1];  // race: warp_write_after_read
    if (!kBug) __syncwarp();
    s[t] = v + 1;
    __syncwarp();
  }
  out[t] = s[t];
}

// A collective of half a warp orders nothing between the halves.
template <bool kBug>
__global__ void wrong_half(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp(kBug ? (t % 32 < 16 ? 0xffffu : 0xffff0000u) : kAll);
  out[t] = s[t ^ 16];  // race: wrong_half
}

template <bool kBug>
__global__ void uninitialised(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  if (!kBug || t != 5) s[t] = x[t];
  out[t] = s[t];
}

template <bool kBug>
__global__ void shared_bounds_write(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t + (kBug && t == kThreads - 1)] = x[t];
  out[t] = x[t];
}

template <bool kBug>
__global__ void shared_bounds_read(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  s[t] = x[t];
  out[t] = s[t - (kBug && t == 0)];
}

// --- collectives
// ------------------------------------------------------------------------------------
template <bool kBug>
__global__ void outside_mask(const float* x, float* out) {
  const int t = threadIdx.x;
  out[t] = __shfl_xor_sync(kBug && t == 33 ? ~2u : kAll, x[t], 1);
}

template <bool kBug>
__global__ void source_outside_mask(const float* x, float* out) {
  const int t = threadIdx.x;
  out[t] = t < 16 ? __shfl_sync(0xffffu, x[t], kBug && t == 3 ? 20 : 2) : x[t];
}

template <bool kBug>
__global__ void exited_lane(const float* x, float* out) {
  const int t = threadIdx.x;
  if (kBug && t == 63) return;
  out[t] = __shfl_xor_sync(kAll, x[t], 1);
}

template <bool kBug>
__global__ void different_collectives(const float* x, float* out) {
  const int t = threadIdx.x;
  out[t] = kBug && t == 7 ? __shfl_down_sync(kAll, x[t], 0) : __shfl_xor_sync(kAll, x[t], 1);
}

template <bool kBug>
__global__ void different_masks(const float* x, float* out) {
  const int t = threadIdx.x;
  __syncwarp(kBug && t % 32 < 4 ? 0xffu : kAll);
  out[t] = x[t];
}

template <bool kBug>
__global__ void divergent_barrier(const float* x, float* out) {
  const int t = threadIdx.x;
  if (kBug && t < 48)
    __syncthreads();
  else
    __syncwarp(t < 32 || t >= 64 || !kBug ? kAll : 0xffff0000u);
  if (kBug && t >= 48) __syncwarp();
  out[t] = x[t];
}

template <bool kBug>
__global__ void different_barriers(const float* x, float* out) {
  const int t = threadIdx.x;
  if (kBug && t == 9)
    __syncthreads_or(1);
  else
    __syncthreads();
  out[t] = x[t];
}

// --- copies and wide accesses
// -----------------------------------------------------------------------
template <bool kBug>
__global__ void misaligned_load(const float* x, float* out) {
  out[threadIdx.x] = load16_global<float4>(x + (kBug ? 2 : 4)).x;
}

template <bool kBug>
__global__ void misaligned_store(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  const int t = threadIdx.x;
  store8(raw + 16 * t + (kBug ? 4 : 8), make_float2(x[t], 0));
  out[t] = x[t];
}

template <bool kBug>
__global__ void misaligned_copy(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  const int t = threadIdx.x;
  cp_async16(raw + 16 * t, x + (kBug ? 1 : 4) * t);
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = x[t];
}

// A thread's copies need not land when it leaves without waiting for them.
template <bool kBug>
__global__ void exit_without_wait(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  cp_async4(s + t, x + t);
  cp_async_commit();
  if (t >= 64 || !kBug) cp_async_wait<0>();
  __syncthreads();
  if (t < 64) return;
  __syncthreads();
  out[t] = s[t - 64];
}

template <bool kBug>
__global__ void overwritten_source(float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  const int t = threadIdx.x;
  cp_async16(raw + 16 * t, x + 4 * t);
  cp_async_commit();
  if (!kBug) cp_async_wait<0>();
  x[4 * t + 1] = 17;
  cp_async_wait<0>();
  out[t] = load16<float4>(raw + 16 * t).x;
}

template <bool kBug>
__global__ void overwritten_destination(const float* x, float* out) {
  DOM2_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  const int t = threadIdx.x;
  cp_async4(s + t, x + t);
  cp_async_commit();
  if (!kBug) cp_async_wait<0>();
  s[t] = 3;
  cp_async_wait<0>();
  out[t] = s[t];
}

// --- global memory
// ------------------------------------------------------------------------------------
template <bool kBug>
__global__ void global_bounds(const float* x, float* out) {
  const int t = threadIdx.x;
  out[t] = x[4 * t + (kBug && t == kThreads - 1 ? 4 : 0)];
}

// All blocks write the place of the first; each has a barrier, which orders nothing between them.
template <bool kBug>
__global__ void cross_block(const float* x, float* out) {
  const int t = threadIdx.x;
  __syncthreads();
  out[t + (kBug ? 0 : blockIdx.x * kThreads)] = x[t];  // race: cross_block
  __syncthreads();
}

// Works only while the blocks happen to run in order. (out starts as zeros.)
template <bool kBug>
__global__ void block_order(const float* x, float* out) {
  const int b = blockIdx.x;
  if (threadIdx.x == 0) out[b] = (kBug && b > 0 ? out[b - 1] : 0) + x[b];
}

template <bool kBug>
__global__ void missing_fence(const float* x, float* out, unsigned* done) {
  const unsigned b = blockIdx.x;
  if (threadIdx.x != 0) return;
  out[b] = x[b];
  if (!kBug) __threadfence();
  if (atomicAdd(done, 1u) == gridDim.x - 1)
    for (unsigned i = 0; i < gridDim.x; ++i) out[gridDim.x] += out[i];  // race: missing_fence
}

// Each atomic is whole, the two together are not.
template <bool kBug>
__global__ void lost_update(const float*, float* out, unsigned* n) {
  if (kBug)
    atomicMax(n, atomicAdd(n, 0u) + 1);
  else
    atomicAdd(n, 1u);
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(*n);
}

__global__ void inner(float* out) { out[0] = 1; }

template <bool kBug>
__global__ void nested_launch(const float*, float* out) {
  if (kBug) launch(inner, 1, 1, 0, nullptr, out);
  out[threadIdx.x] = 1;
}

// --------------------------------------------------------------------------------------------------
// Runs one kernel and prints its bits and whether a NaN is among them.
template <class K, class... A>
void show(K kernel, int blocks, size_t shared_bytes, A... more) {
  // The exact size, so that ASan sees a read behind it.
  const std::unique_ptr<float4[]> x(new float4[kThreads]);
  for (int i = 0; i < kThreads; ++i) {
    const float v = static_cast<float>(i);
    x[i] = {v * v, v + 1, v - 7, 3};
  }
  vector<float> out(kThreads * 3, 0.0f);
  const cudaError_t error =
      launch(kernel, blocks, kThreads, shared_bytes, nullptr, &x[0].x, out.data(), more...);
  EXPECT(error == cudaSuccess);
  uint64_t bits = 0;
  int nans = 0;
  for (float v : out) {
    bits = bits * 31 + __float_as_uint(v);
    nans += std::isnan(v);
  }
  std::printf("bits %016llx, %d NaN\n", static_cast<unsigned long long>(bits), nans);
}

template <bool kBug>
bool run(const char* name) {
  constexpr size_t kWord = kThreads * 4, kQuad = kThreads * 16;
#define PLANTED(KERNEL, BLOCKS, SHARED, ...) \
  if (!std::strcmp(name, #KERNEL))           \
  return show(KERNEL<kBug>, BLOCKS, SHARED __VA_OPT__(, ) __VA_ARGS__), true
  PLANTED(missing_wait, 1, kQuad);
  PLANTED(missing_barrier, 1, kWord);
  PLANTED(missing_copy_barrier, 1, kWord);
  PLANTED(write_after_read, 1, kWord);
  PLANTED(missing_syncwarp, 1, kWord);
  PLANTED(warp_write_after_read, 1, kWord);
  PLANTED(wrong_half, 1, kWord);
  PLANTED(uninitialised, 1, kWord);
  PLANTED(shared_bounds_write, 1, kWord);
  PLANTED(shared_bounds_read, 1, kWord);
  PLANTED(outside_mask, 1, 0);
  PLANTED(source_outside_mask, 1, 0);
  PLANTED(exited_lane, 1, 0);
  PLANTED(different_collectives, 1, 0);
  PLANTED(different_masks, 1, 0);
  PLANTED(divergent_barrier, 1, 0);
  PLANTED(different_barriers, 1, 0);
  PLANTED(misaligned_load, 1, 0);
  PLANTED(misaligned_store, 1, kQuad);
  PLANTED(misaligned_copy, 1, kQuad);
  PLANTED(exit_without_wait, 1, kWord);
  PLANTED(overwritten_source, 1, kQuad);
  PLANTED(overwritten_destination, 1, kWord);
  PLANTED(global_bounds, 1, 0);
  PLANTED(cross_block, 2, 0);
  PLANTED(block_order, 3, 0);
  unsigned done = 0;
  PLANTED(missing_fence, 3, 0, &done);
  PLANTED(lost_update, 1, 0, &done);
  PLANTED(nested_launch, 1, 0);
#undef PLANTED
  return false;
}

}  // namespace planted
