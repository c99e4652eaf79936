// Runs the instructions of a step program on a tile of rows, forward. A block walks through the
// list together, with a barrier after each instruction.
#pragma once
#include "activations.h"
#include "exec.h"
#include "gemm.h"
#include "rng.h"

namespace dom2 {
namespace cuda {
namespace {  // as what it is made of: core/philox.h

// What a block works on. Values are rows of `ld` floats, in shared memory or in a scratch buffer.
struct Tile {
  float* v;
  int ld;
  uint4* ring;
  const uint4* resident;
  const uint4* packed;  // the group's weights
  const float* table;   // the group's row of the table, of the present step
  const Data* data;
  int64_t flat;  // first row, counted over all groups
  int step;
};

__device__ __forceinline__ Operand operand(const Matrix& m, const uint4* packed) {
  return {m.n, m.k, m.tiles, m.packets, packed + m.first};
}

// out = act(W a + table + b) + c. `Weights` finds the packets: multiply(sums, matrix, tile, a).
template <class M, int R, class Weights>
__device__ __forceinline__ void run_linear(const Tile& t, const Code& code, const Instruction& s,
                                           const Weights& weights) {
  constexpr int kE = M::template kElements<R>;
  const Matrix& m = code.matrix[s.matrix];
  const float* a = t.v + s.a;
  float* z = t.v + (s.z >= 0 ? s.z : s.out);
  float* out = t.v + s.out;
  const float* pre = s.b >= 0 ? t.v + s.b : nullptr;
  const float* add = s.c >= 0 ? t.v + s.c : nullptr;
  const float* table = s.table >= 0 ? t.table + s.table : nullptr;
  for (int first = warp_id(); first < m.tiles; first += kWarps * M::kTiles) {
    Sums<M, R> sums = {};
    weights.multiply(sums, s.matrix, first, a);
#pragma unroll
    for (int i = 0; i < M::kTiles; ++i) {
      const int base = (first + i * kWarps) * M::kFeatures;
      if (base >= s.width) break;
#pragma unroll
      for (int e = 0; e < kE; ++e) {
        const int f = base + M::feature(e), o = M::row(e) * t.ld + f;
        if (f >= s.width) continue;
        float sum = sums.v[i][e];
        if (table) sum += table[f];
        if (pre) sum += pre[o];
        z[o] = sum;
      }
      if (s.act == 0 && !add) continue;
      // A second pass over what this very lane wrote: its loop needn't be unrolled eight times.
      with_activation(s.act, [&](auto act) {
#pragma unroll 4
        for (int e = 0; e < kE; ++e) {
          const int f = base + M::feature(e), o = M::row(e) * t.ld + f;
          if (f >= s.width) continue;
          const float y = activate<decltype(act)::value>(z[o]);
          out[o] = add ? y + add[o] : y;
        }
      });
    }
  }
}

// Calls f(row, column) for all columns [0, n) of the tile, a warp per row.
template <int R, class F>
__device__ __forceinline__ void for_elements(int n, const F& f) {
  for (int r = warp_id(); r < R; r += kWarps)
    for (int j = lane_id(); j < n; j += kWarp) f(r, j);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) v += __shfl_xor_sync(0xffffffffu, v, mask);
  return v;
}

struct Moments {
  float mean, scale;
};

// Of columns [0, n) of one row, by one warp: every lane gets the result.
__device__ __forceinline__ Moments moments(const float* a, int n, float eps) {
  float sum = 0.f, square = 0.f;
  for (int j = lane_id(); j < n; j += kWarp) sum += a[j];
  const float mean = warp_sum(sum) / n;
  for (int j = lane_id(); j < n; j += kWarp) square += (a[j] - mean) * (a[j] - mean);
  return {mean, 1.f / sqrtf(warp_sum(square) / n + eps)};
}

// Calls f(row, column, keep) for all columns of a dropout mask.
template <int R, class F>
__device__ __forceinline__ void for_mask(const Tile& t, const Code& code, const Instruction& s,
                                         const F& f) {
  const uint32_t stream = kStreamDropout + static_cast<uint32_t>(t.step) * code.sites + s.site;
  const int blocks = (s.width + 3) / 4;
  for_elements<R>(blocks, [&](int r, int block) {
    const Words w =
        philox(rng_of(*t.data), stream, static_cast<uint64_t>(t.flat + r) * blocks + block);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (block * 4 + i < s.width) f(r, block * 4 + i, w.w[i] >= s.drop_below);
  });
}

template <class M, int R, class Weights>
__device__ __forceinline__ void run_instruction(const Tile& t, const Code& code,
                                                const Instruction& s, const Weights& weights) {
  const float* a = t.v + s.a;
  float* out = t.v + s.out;
  const int ld = t.ld;
  // A second operand is a value with a row stride, or a row of the table, the same for all rows.
  const float* second = s.b >= 0 ? t.v + s.b : s.table >= 0 ? t.table + s.table : nullptr;
  const int second_ld = s.b >= 0 ? ld : 0;
  switch (static_cast<Op>(s.op)) {
    case Op::kLinear:
      run_linear<M, R>(t, code, s, weights);
      break;
    case Op::kActivation:
      with_activation(s.act, [&](auto act) {
        for_elements<R>(s.width, [&](int r, int j) {
          out[r * ld + j] = activate<decltype(act)::value>(a[r * ld + j]);
        });
      });
      break;
    case Op::kAdd:
      for_elements<R>(s.width, [&](int r, int j) {
        out[r * ld + j] = a[r * ld + j] + second[r * second_ld + j];
      });
      break;
    case Op::kMul:
      for_elements<R>(s.width, [&](int r, int j) {
        out[r * ld + j] = a[r * ld + j] * second[r * second_ld + j];
      });
      break;
    case Op::kLayerNorm: {
      const float* shift = s.table2 >= 0 ? t.table + s.table2 : nullptr;
      for (int r = warp_id(); r < R; r += kWarps) {
        const Moments m = moments(a + r * ld, s.width, s.value);
        for (int j = lane_id(); j < s.width; j += kWarp) {
          float x = (a[r * ld + j] - m.mean) * m.scale;
          if (second) x *= second[j];
          if (shift) x += shift[j];
          out[r * ld + j] = x;
        }
      }
      break;
    }
    case Op::kDropout: {
      const float scale = 1.f / (1.f - s.value);
      for_mask<R>(t, code, s, [&](int r, int j, bool keep) {
        out[r * ld + j] = keep ? a[r * ld + j] * scale : 0.f;
      });
      break;
    }
    case Op::kCopy:
      for_elements<R>(s.width, [&](int r, int j) { out[r * ld + j] = a[r * ld + j]; });
      break;
  }
  __syncthreads();
}

// Where a call's condition vectors start: [G, B / repeat, width], one for `repeat` rows.
__device__ __forceinline__ const float* cond_vector(const Data& d, int width, int64_t group,
                                                    int64_t row) {
  return d.cond + (group * (d.batch / d.repeat) + row / d.repeat) * width;
}

// The condition vectors of the tile into their columns; rows beyond the batch are zero.
template <int R>
__device__ __forceinline__ void put_cond(float* v, int ld, int width, const Data& d, int64_t group,
                                         int64_t row) {
  for_elements<R>(width, [&](int r, int j) {
    v[r * ld + j] = row + r < d.batch ? cond_vector(d, width, group, row + r)[j] : 0.f;
  });
}

}  // namespace
}  // namespace cuda
}  // namespace dom2
