// Lays weights out in packets of 16 bytes per lane (exec.h), rounding to bf16 where asked.
#include "device.h"
#include "launch.h"

namespace dom2 {
namespace cuda {
namespace {

__device__ __forceinline__ float element(const Source& s, int64_t group, int n, int k, int row,
                                         int col) {
  return row < n && col < k ? s.data[group * s.group + row * s.row + col * s.col] : 0.f;
}

__global__ void __launch_bounds__(kThreads) pack_kernel(DOM2_GRID_CONSTANT const Pack p) {
  const int64_t total = p.first[p.matrices], group = blockIdx.y;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= total) return;
  int i = 0;
  while (at >= p.first[i + 1]) ++i;
  const int64_t in = at - p.first[i];
  const int n = p.n[i], k = p.k[i], lane = static_cast<int>(in % kWarp);
  const Packing form = packing(p.precision);
  const int packets = (k + form.depth - 1) / form.depth;
  const int row0 = static_cast<int>(in / kWarp / packets) * form.features;
  const int col0 = static_cast<int>(in / kWarp % packets) * form.depth;
  const auto w = [&](int row, int col) {
    return element(p.source[i], group, n, k, row0 + row, col0 + col);
  };
  uint4 packet;
  if (p.precision == Precision::kBf16) {  // the A fragment of mma.m16n8k16
    const int g = lane / 4, t = lane % 4 * 2;
    packet = make_uint4(pack_bf16(w(g, t), w(g, t + 1)), pack_bf16(w(g + 8, t), w(g + 8, t + 1)),
                        pack_bf16(w(g, t + 8), w(g, t + 9)),
                        pack_bf16(w(g + 8, t + 8), w(g + 8, t + 9)));
  } else {
    packet = make_uint4(__float_as_uint(w(lane, 0)), __float_as_uint(w(lane, 1)),
                        __float_as_uint(w(lane, 2)), __float_as_uint(w(lane, 3)));
  }
  store16(static_cast<uint4*>(p.out) + group * total + at, packet);
}

}  // namespace

int launch_pack_weights(const Pack& p, int64_t groups, void* stream) {
  const int64_t blocks = (p.first[p.matrices] + kThreads - 1) / kThreads;
  return launch(pack_kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(groups)),
                dim3(kThreads), 0, static_cast<cudaStream_t>(stream), p);
}

}  // namespace cuda
}  // namespace dom2
