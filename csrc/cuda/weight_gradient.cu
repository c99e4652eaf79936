// Gradients of weights from what denoise_bwd.cu exports, and sums of partial results. Every float
// is one thread's sum in a fixed order: results are bit-equal from run to run.
#include "backward.h"
#include "device.h"

namespace dom2 {
namespace cuda {
namespace {

constexpr int kTile = kGradientTile, kSlots = kGradientSlots;
// Rows of the staged slots lie 4 floats apart modulo 32, so that no product below meets a bank
// twice, and each starts at 16 bytes.
constexpr int kPitch = kTile + 4;
constexpr int kStageFloats = kSlots * kPitch;
constexpr int kSums = kTile * kTile / kThreads;

// Which 16 of the tile's floats a thread sums, and the product of one stage: sum += d^T a, d and a
// [kSlots][kPitch].
struct OuterFp32 {
  __device__ static int row(int i) { return threadIdx.x / 16 * 4 + i / 4; }
  __device__ static int col(int i) { return threadIdx.x % 16 * 4 + i % 4; }

  __device__ static __forceinline__ void multiply(float (&sum)[kSums], const float* d,
                                                  const float* a) {
#pragma unroll 8
    for (int s = 0; s < kSlots; ++s) {
      const float4 x = load16<float4>(d + s * kPitch + row(0));
      const float4 y = load16<float4>(a + s * kPitch + col(0));
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] = fmaf(xs[i / 4], ys[i % 4], sum[i]);
    }
  }
};

// A warp sums 16 x 32 by tensor cores: features of d are the rows of A, columns of a those of B.
struct OuterBf16 {
  __device__ static int feature() { return threadIdx.x / kWarp % 4 * 16; }
  __device__ static int column() { return threadIdx.x / kWarp / 4 * 32; }
  __device__ static int row(int i) { return feature() + threadIdx.x % kWarp / 4 + i % 4 / 2 * 8; }
  __device__ static int col(int i) { return column() + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2; }

  __device__ static __forceinline__ void multiply(float (&sum)[kSums], const float* d,
                                                  const float* a) {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4 * 2;
#pragma unroll
    for (int s = 0; s < kSlots; s += 16) {
      const auto pair = [&](const float* from, int slot, int col) {
        const float* p = from + (s + t + slot) * kPitch + col + g;
        return pack_bf16(p[0], p[kPitch]);
      };
      const uint32_t x[4] = {pair(d, 0, feature()), pair(d, 0, feature() + 8),
                             pair(d, 8, feature()), pair(d, 8, feature() + 8)};
#pragma unroll
      for (int j = 0; j < kSums / 4; ++j) {
        const uint32_t y[2] = {pair(a, 0, column() + j * 8), pair(a, 8, column() + j * 8)};
        mma_bf16(reinterpret_cast<float (&)[4]>(sum[j * 4]), x, y);
      }
    }
  }
};

// Starts copying columns [col, col + 64) of slots [slot, slot + 32) to a stage; zeros beyond.
__device__ __forceinline__ void fetch(float* stage, const float* from, int width, int64_t slots,
                                      int64_t slot, int col) {
  constexpr int kWide = kTile / 4;
  for (int i = threadIdx.x; i < kSlots * kWide; i += kThreads) {
    const int s = i / kWide, j = i % kWide * 4;
    const bool valid = slot + s < slots && col + j < width;
    cp_async16_zero(stage + s * kPitch + j, valid ? from + (slot + s) * width + col + j : from,
                    valid);
  }
}

template <class Outer>
__global__ void __launch_bounds__(kThreads, 2)
    weight_gradient_kernel(DOM2_GRID_CONSTANT const WeightGradients p) {
  DOM2_DYNAMIC_SHARED(shared);
  float* stage = reinterpret_cast<float*>(shared);  // [2][d or a][kSlots][kPitch]
  const int tile = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
  const int64_t group = blockIdx.z;
  int m = 0;
  while (tile >= p.first_tile[m + 1]) ++m;
  const int n = p.n[m], k = p.k[m], across = (k + kTile - 1) / kTile;
  const int row0 = (tile - p.first_tile[m]) / across * kTile;
  const int col0 = (tile - p.first_tile[m]) % across * kTile;
  const int d_width = export_width(n), a_width = export_width(k);

  float total[kSums] = {};
  for (int u = p.first_use[m]; u < p.first_use[m + 1]; ++u) {
    const Use& use = p.use[u];
    const float* d = p.exported + use.sums + group * use.slots * d_width;
    const float* a = p.exported + use.input + group * use.slots * a_width;
    const int64_t stages = (use.slots + kSlots - 1) / kSlots;
    const int64_t begin = stages * split / p.splits, end = stages * (split + 1) / p.splits;
    const auto issue = [&](int64_t i) {
      if (i < end) {
        float* to = stage + i % 2 * 2 * kStageFloats;
        fetch(to, d, d_width, use.slots, i * kSlots, row0);
        fetch(to + kStageFloats, a, a_width, use.slots, i * kSlots, col0);
      }
      cp_async_commit();
    };
    issue(begin);
    for (int64_t i = begin; i < end; ++i) {
      issue(i + 1);
      cp_async_wait<1>();
      __syncthreads();
      const float* from = stage + i % 2 * 2 * kStageFloats;
      float sum[kSums] = {};  // apart from the total: the error of long sums grows more slowly
      Outer::multiply(sum, from, from + kStageFloats);
#pragma unroll
      for (int j = 0; j < kSums; ++j) total[j] += sum[j];
      __syncthreads();
    }
  }

  float* out = p.out + split * p.size + p.groups * p.grad[m] + group * n * k;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const int row = row0 + Outer::row(i), col = col0 + Outer::col(i);
    if (row >= n || col >= k) continue;
    float& to = out[int64_t{row} * k + col];
    to = p.add ? to + total[i] : total[i];
  }
}

__global__ void __launch_bounds__(kThreads) reduce_kernel(DOM2_GRID_CONSTANT const Reduce p) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.size) return;
  float sum = 0.f;
#pragma unroll 4
  for (int64_t part = 0; part < p.count; ++part) sum += p.parts[part * p.size + i];
  p.out[i] = p.add ? p.out[i] + sum : sum;
}

}  // namespace

int launch_weight_gradients(const WeightGradients& w, Precision precision, void* stream) {
  const auto kernel = precision == Precision::kBf16 ? weight_gradient_kernel<OuterBf16>
                                                    : weight_gradient_kernel<OuterFp32>;
  return launch(kernel,
                dim3(static_cast<unsigned>(w.first_tile[w.matrices]),
                     static_cast<unsigned>(w.splits), static_cast<unsigned>(w.groups)),
                dim3(kThreads), 4 * kStageFloats * sizeof(float), static_cast<cudaStream_t>(stream),
                w);
}

int launch_reduce(const Reduce& r, void* stream) {
  const int64_t blocks = (r.size + kThreads - 1) / kThreads;
  return launch(reduce_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), r);
}

}  // namespace cuda
}  // namespace dom2
