// sample_transitions: weighted draw of transitions and gather of all their fields, in one launch.
// dom2_fast/ops/reference.py defines it; the integers are the same on every device.
#include "../core/alias.h"
#include "device.h"
#include "launch.h"
#include "rng.h"

namespace dom2 {
namespace cuda {
namespace {

// Lanes that share a draw: a transition's fields are some 2 to 40 numbers wide.
constexpr int kLanes = 8, kDraws = kThreads / kLanes;

// Copies one row, `kVector` floats at a time.
template <class Wide, int kVector>
__device__ __forceinline__ void copy(const float* from, float* to, int width, int lane) {
  for (int j = lane; j < width / kVector; j += kLanes) {
    if constexpr (kVector == 1)
      to[j] = __ldg(from + j);
    else if constexpr (kVector == 2)
      store8(to + 2 * j, load8_global<Wide>(from + 2 * j));
    else
      store16(to + 4 * j, load16_global<Wide>(from + 4 * j));
  }
}

__global__ void __launch_bounds__(kThreads) sample_kernel(DOM2_GRID_CONSTANT const Sample p) {
  const int64_t group = blockIdx.y, b = int64_t{blockIdx.x} * kDraws + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  if (b >= p.batch) return;
  // Every lane of a draw computes it: cheaper than to hand it round.
  const Words w = philox(rng_of(p), kStreamSample, static_cast<uint64_t>(group * p.batch + b));
  const AliasTable table{p.threshold + group * p.trajectories, p.alias + group * p.trajectories,
                         p.starts, p.trajectories};
  const int64_t row = draw(table, w.w);
  if (lane == 0) p.index[group * p.batch + b] = row;
  for (int64_t i = 0; i < p.fields; ++i) {
    const GatheredField& f = p.field[i * p.groups + group];
    float* to = f.out + b * f.width;
    if (f.is_double) {
      const double* from = static_cast<const double*>(f.data) + row * f.row;
      for (int j = lane; j < f.width; j += kLanes) to[j] = static_cast<float>(from[j]);
    } else {
      const float* from = static_cast<const float*>(f.data) + row * f.row;
      if (f.vector == 4)
        copy<float4, 4>(from, to, f.width, lane);
      else if (f.vector == 2)
        copy<float2, 2>(from, to, f.width, lane);
      else
        copy<float, 1>(from, to, f.width, lane);
    }
  }
}

}  // namespace

int launch_sample_transitions(const Sample& s, void* stream) {
  const int64_t blocks = (s.batch + kDraws - 1) / kDraws;
  return launch(sample_kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(s.groups)),
                dim3(kThreads), 0, static_cast<cudaStream_t>(stream), s);
}

}  // namespace cuda
}  // namespace dom2
