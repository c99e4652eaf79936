// Runs the instructions of a step program backwards on a tile of rows. As in steps.h a block walks
// through the list together. Contributions to one column come from one thread after the other:
// wherever two operands may overlap, a barrier stands between them (c, then b, then a).
#pragma once
#include "backward.h"
#include "steps.h"

namespace dom2 {
namespace cuda {
namespace {  // as what it is made of: core/philox.h

struct GradientTile {
  Tile t;    // the values
  float* g;  // gradients of values, rows of `ld` floats
  int ld;
  const uint4* packed;  // the group's transposed weights
  float* table;         // the tile's sums for the present row of the table; null: not wanted
  Moments* moments;     // one for each row
  int rows;             // that are part of the batch
  int64_t row;          // the tile's first row within the launch
  bool want_x, want_cond;
};

__device__ __forceinline__ void put(float& to, float v, bool set) {
  if (set)
    to = v;
  else
    to += v;
}

// Calls f(column) for columns [0, n), a thread per column, so that it can sum over rows.
template <class F>
__device__ __forceinline__ void for_columns(int n, const F& f) {
  for (int j = threadIdx.x; j < n; j += kThreads) f(j);
}

// Columns at `to` (+)= columns at `from`.
template <int R>
__device__ __forceinline__ void pass_on(const GradientTile& t, int from, int to, int n, bool set) {
  for_columns(n, [&](int j) {
#pragma unroll
    for (int r = 0; r < R; ++r) put(t.g[r * t.ld + to + j], t.g[r * t.ld + from + j], set);
  });
}

// table gradient += sum over the batch's rows of f(row, column)
template <int R, class F>
__device__ __forceinline__ void table_gradient(const GradientTile& t, int column, int n,
                                               const F& f) {
  if (!t.table || column < 0) return;
  for_columns(n, [&](int j) {
    float sum = 0.f;
#pragma unroll
    for (int r = 0; r < R; ++r)
      if (r < t.rows) sum += f(r, j);
    t.table[column + j] += sum;
  });
}

// Copies n columns of the batch's rows out, filled up with zeros to a multiple of four.
template <int R>
__device__ __forceinline__ void export_rows(const GradientTile& t, const float* from, int ld, int n,
                                            float* to) {
  const int width = export_width(n);
  for_elements<R>(width, [&](int r, int j) {
    if (r < t.rows) to[int64_t{r} * width + j] = j < n ? from[r * ld + j] : 0.f;
  });
}

// dz W into the columns of a.
template <class M, int R>
__device__ __forceinline__ void linear_input_gradient(const GradientTile& t, const Code& code,
                                                      const Instruction& s) {
  constexpr int kStages = ring_stages(M::kPrecision, false);
  const Matrix& m = code.matrix[s.matrix];
  const Operand w{m.k, m.n, m.tiles_t, m.packets_t, t.packed + m.first_t};
  const float* dz = t.g + s.g_out;
  for (int first = warp_id(); first < w.tiles; first += kWarps * M::kTiles) {
    Sums<M, R> sums = {};
    multiply_streamed<M, R, kStages>(sums, w, first, dz, t.ld, s.g_out % 4 == 0, t.t.ring);
#pragma unroll
    for (int i = 0; i < M::kTiles; ++i) {
      const int base = (first + i * kWarps) * M::kFeatures;
      if (base >= s.k) break;
#pragma unroll
      for (int e = 0; e < M::template kElements<R>; ++e) {
        const int f = base + M::feature(e);
        if (f < s.k) put(t.g[M::row(e) * t.ld + s.g_a + f], sums.v[i][e], s.set_a);
      }
    }
  }
}

template <class M, int R>
__device__ __forceinline__ void linear_backward(const GradientTile& t, const Backward& p,
                                                const Instruction& s, const Export& to,
                                                int64_t slot) {
  const Code& code = p.code;
  const int n = s.width;
  if (s.g_c >= 0) {
    pass_on<R>(t, s.g_out, s.g_c, n, s.set_c);
    if (s.g_b >= 0) __syncthreads();
  }
  if (s.act != 0) {  // dz takes the place of the result's gradient
    with_activation(s.act, [&](auto act) {
      for_columns(n, [&](int j) {
#pragma unroll 4
        for (int r = 0; r < R; ++r)
          t.g[r * t.ld + s.g_out + j] *=
              derivative<decltype(act)::value>(t.t.v[r * t.t.ld + s.z + j]);
      });
    });
  }
  if (s.g_b >= 0) pass_on<R>(t, s.g_out, s.g_b, n, s.set_b);
  table_gradient<R>(t, s.table, n, [&](int r, int j) { return t.g[r * t.ld + s.g_out + j]; });
  __syncthreads();
  if (p.exported) {
    export_rows<R>(t, t.t.v + s.a, t.t.ld, s.k, p.exported + to.input + slot * export_width(s.k));
    export_rows<R>(t, t.g + s.g_out, t.ld, n, p.exported + to.sums + slot * export_width(n));
  }
  const bool of_cond = s.g_a >= code.g_cond && s.g_a < code.g_cond + code.cond_width;
  const bool of_x = s.g_a >= code.g_x && s.g_a < code.g_x + code.x_width;
  if ((of_cond && !t.want_cond) || (of_x && !t.want_x)) return;  // nobody asked for it
  linear_input_gradient<M, R>(t, code, s);
}

template <int R>
__device__ __forceinline__ void layer_norm_backward(const GradientTile& t, const Instruction& s) {
  const int n = s.width;
  const float* gain = s.table >= 0 ? t.t.table + s.table : nullptr;
  for (int r = warp_id(); r < R; r += kWarps) {
    const float *a = t.t.v + r * t.t.ld + s.a, *dout = t.g + r * t.ld + s.g_out;
    float* da = t.g + r * t.ld + s.g_a;
    const Moments m = moments(a, n, s.value);
    if (lane_id() == 0) t.moments[r] = m;
    float mean_d = 0.f, mean_dx = 0.f;
    for (int j = lane_id(); j < n; j += kWarp) {
      const float d = gain ? dout[j] * gain[j] : dout[j];
      mean_d += d;
      mean_dx += d * ((a[j] - m.mean) * m.scale);
    }
    mean_d = warp_sum(mean_d) / n;
    mean_dx = warp_sum(mean_dx) / n;
    for (int j = lane_id(); j < n; j += kWarp) {
      const float d = gain ? dout[j] * gain[j] : dout[j], x = (a[j] - m.mean) * m.scale;
      put(da[j], m.scale * (d - mean_d - x * mean_dx), s.set_a);
    }
  }
  table_gradient<R>(t, s.table2, n, [&](int r, int j) { return t.g[r * t.ld + s.g_out + j]; });
  if (!t.table || !gain) return;
  __syncthreads();  // the moments
  table_gradient<R>(t, s.table, n, [&](int r, int j) {
    const Moments m = t.moments[r];
    return t.g[r * t.ld + s.g_out + j] * ((t.t.v[r * t.t.ld + s.a + j] - m.mean) * m.scale);
  });
}

// Instruction `i`; `slot` is where its rows are exported to.
template <class M, int R>
__device__ __forceinline__ void run_backward(const GradientTile& t, const Backward& p, int i,
                                             int64_t slot) {
  const Instruction& s = p.code.instruction[i];
  const int n = s.width, ld = t.t.ld, gd = t.ld;
  const float *v = t.t.v, *dout = t.g + s.g_out;
  switch (static_cast<Op>(s.op)) {
    case Op::kLinear:
      linear_backward<M, R>(t, p, s, p.exports[i], slot);
      break;
    case Op::kActivation:
      with_activation(s.act, [&](auto act) {
        for_elements<R>(n, [&](int r, int j) {
          const float d = derivative<decltype(act)::value>(v[r * ld + s.a + j]);
          put(t.g[r * gd + s.g_a + j], dout[r * gd + j] * d, s.set_a);
        });
      });
      break;
    case Op::kAdd:
      if (s.g_b >= 0) {
        pass_on<R>(t, s.g_out, s.g_b, n, s.set_b);
        __syncthreads();
      }
      table_gradient<R>(t, s.table, n, [&](int r, int j) { return dout[r * gd + j]; });
      pass_on<R>(t, s.g_out, s.g_a, n, s.set_a);
      break;
    case Op::kMul: {
      const auto times_a = [&](int r, int j) { return dout[r * gd + j] * v[r * ld + s.a + j]; };
      if (s.g_b >= 0) {
        for_elements<R>(
            n, [&](int r, int j) { put(t.g[r * gd + s.g_b + j], times_a(r, j), s.set_b); });
        __syncthreads();
      }
      table_gradient<R>(t, s.table, n, times_a);
      const float* second = s.b >= 0 ? v + s.b : t.t.table + s.table;
      const int second_ld = s.b >= 0 ? ld : 0;
      for_elements<R>(n, [&](int r, int j) {
        put(t.g[r * gd + s.g_a + j], dout[r * gd + j] * second[r * second_ld + j], s.set_a);
      });
      break;
    }
    case Op::kLayerNorm:
      layer_norm_backward<R>(t, s);
      break;
    case Op::kDropout: {
      const float scale = 1.f / (1.f - s.value);
      for_mask<R>(t.t, p.code, s, [&](int r, int j, bool keep) {
        put(t.g[r * gd + s.g_a + j], keep ? dout[r * gd + j] * scale : 0.f, s.set_a);
      });
      break;
    }
    case Op::kCopy:
      pass_on<R>(t, s.g_out, s.g_a, n, s.set_a);
      break;
  }
  __syncthreads();
}

}  // namespace
}  // namespace cuda
}  // namespace dom2
