// The words that kernels here are written in: asynchronous copies, tensor cores, wide accesses,
// launches. nvcc makes PTX of them; any other compiler gets csrc/testing/simt, which runs the same
// kernels on the CPU for tests. Kernels include this and no other CUDA header.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef __CUDACC__

#include "../testing/simt/simt.h"

#define DOM2_GRID_CONSTANT
#define DOM2_DYNAMIC_SHARED(name) unsigned char* const name = simt::dynamic_shared()

#else

#include <cuda_runtime.h>

#include <utility>

#define DOM2_GRID_CONSTANT __grid_constant__
// The block's dynamic shared memory, 16-byte aligned.
#define DOM2_DYNAMIC_SHARED(name)                                      \
  extern __shared__ __align__(16) unsigned char dom2_dynamic_shared[]; \
  unsigned char* const name = dom2_dynamic_shared

namespace dom2::cuda {

// Launches, or returns why not. Does not wait, so errors of the run itself show later. A grid
// without blocks is no error and launches nothing.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, A&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) {
      (void)cudaGetLastError();  // reported here, not again by whoever asks next
      return error;
    }
  }
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(std::forward<A>(args)...);
  // clang-format on
  return cudaGetLastError();
}

// cp.async: copies to shared memory that land at the wait. Cards before sm_80 copy at once.
__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

// Zeros instead where !valid; `global` is then not read, but must be 16-byte aligned.
__device__ __forceinline__ void cp_async16_zero(void* shared, const void* global, bool valid) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
#else
  *static_cast<uint4*>(shared) =
      valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void cp_async4(void* shared, const void* global) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(global) : "memory");
#else
  *static_cast<uint32_t*>(shared) = *static_cast<const uint32_t*>(global);
#endif
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void cp_async_commit() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits for all of this thread's groups but the newest N. Other threads need a barrier as well.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  static_assert(N >= 0, "a number of groups");
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}

// d += a b for one warp: m16n8k16, row.col, bf16 operands, float32 sums; all 32 lanes take part.
// csrc/testing/simt/tensor.h says which lane holds what.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();  // launchers choose float32 kernels on such cards
#endif
}

// Two floats rounded to bf16, to nearest even; NaN stays NaN. `lo` is the half at lower addresses.
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(hi), "f"(lo));
  return packed;
#else
  const auto half = [](float x) -> uint32_t {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return half(lo) | half(hi) << 16;
#endif
}

// One access of 16 or 8 bytes, at an address that is a multiple of that. The _global forms read
// through the cache for data that no thread writes while the kernel runs.
#define DOM2_WIDE(BYTES, WORDS)                                                   \
  template <class T>                                                              \
  __device__ __forceinline__ T load##BYTES(const void* from) {                    \
    static_assert(sizeof(T) == BYTES, "load" #BYTES " reads " #BYTES " bytes");   \
    const WORDS words = *static_cast<const WORDS*>(from);                         \
    T value;                                                                      \
    memcpy(&value, &words, BYTES);                                                \
    return value;                                                                 \
  }                                                                               \
  template <class T>                                                              \
  __device__ __forceinline__ T load##BYTES##_global(const void* from) {           \
    static_assert(sizeof(T) == BYTES, "load" #BYTES " reads " #BYTES " bytes");   \
    const WORDS words = __ldg(static_cast<const WORDS*>(from));                   \
    T value;                                                                      \
    memcpy(&value, &words, BYTES);                                                \
    return value;                                                                 \
  }                                                                               \
  template <class T>                                                              \
  __device__ __forceinline__ void store##BYTES(void* to, const T& value) {        \
    static_assert(sizeof(T) == BYTES, "store" #BYTES " writes " #BYTES " bytes"); \
    WORDS words;                                                                  \
    memcpy(&words, &value, BYTES);                                                \
    *static_cast<WORDS*>(to) = words;                                             \
  }
DOM2_WIDE(16, uint4)
DOM2_WIDE(8, uint2)
#undef DOM2_WIDE

}  // namespace dom2::cuda

#endif
