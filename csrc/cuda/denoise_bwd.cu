// denoise and run_program, backward. dom2_fast/ops/reference.py defines the loop, and autograd its
// gradient.
//
// A block takes a tile of R rows of one group through the steps, last first: it recomputes a step
// from the saved x, then runs the instructions backwards. Sums over rows are left to others: the
// inputs and output gradients of the linear instructions go to memory, where weight_gradient.cu
// multiplies them, and each tile's part of the table's gradient is added up there.
#include "steps_bwd.h"

namespace dom2 {
namespace cuda {
namespace {

template <class M, int R>
struct Streamed {
  const Tile& t;
  const Code& code;

  __device__ __forceinline__ void multiply(Sums<M, R>& sums, int matrix, int tile,
                                           const float* a) const {
    multiply_streamed<M, R, ring_stages(M::kPrecision, false)>(
        sums, operand(code.matrix[matrix], t.packed), tile, a, t.ld, (a - t.v) % 4 == 0, t.ring);
  }
};

// Gradients of x after the last step and of the two x0 before it (gx0, the earlier one behind), or
// what later steps left.
template <int R>
__device__ void start(const Backward& p, const GradientTile& t, bool last, double* gx,
                      double* gx0) {
  const Code& code = p.code;
  const Data& d = p.data;
  const int n = code.x_width, once = code.once_columns;
  const int64_t local = blockIdx.y * p.rows + t.row, slab = d.groups * p.rows * n;
  for_elements<R>(n, [&](int r, int j) {
    double of_x = 0.0, of_x0 = 0.0, of_earlier = 0.0;
    if (r < t.rows && !last) {
      of_x = p.state[(local + r) * n + j];
      of_x0 = p.state[slab + (local + r) * n + j];
      of_earlier = p.state[2 * slab + (local + r) * n + j];
    } else if (r < t.rows && p.solver.total) {
      const int64_t at = (t.t.flat + r) * n + j;
      const double x = p.path[d.steps * d.groups * d.batch * n + at];
      if (!(x < p.solver.out_low || x > p.solver.out_high)) of_x = p.grad_out[at];
    }
    gx[r * n + j] = of_x;
    gx0[r * n + j] = of_x0;
    gx0[(R + r) * n + j] = of_earlier;
  });
  if (last) {
    if (code.cond_width)
      put_cond<R>(t.t.v + code.cond, t.t.ld, code.cond_width, d, blockIdx.y, p.row + t.row);
    for_elements<R>(code.g_once_columns, [&](int r, int j) { t.g[r * t.ld + j] = 0.f; });
    return;
  }
  for_elements<R>(once + code.g_once_columns, [&](int r, int j) {
    const float v = r < t.rows ? p.kept[(local + r) * (once + code.g_once_columns) + j] : 0.f;
    (j < once ? t.t.v[r * t.t.ld + j] : t.g[r * t.ld + j - once]) = v;
  });
}

// The gradients of x_T and of the condition vectors, or what the steps before go on from.
template <int R>
__device__ void finish(const Backward& p, const GradientTile& t, const double* gx,
                       const double* gx0) {
  const Code& code = p.code;
  const int n = code.x_width, once = code.once_columns;
  const int64_t local = blockIdx.y * p.rows + t.row, slab = p.data.groups * p.rows * n;
  const bool first = p.solver.first == 0;
  for_elements<R>(n, [&](int r, int j) {
    if (r >= t.rows) return;
    if (!first) {
      p.state[(local + r) * n + j] = gx[r * n + j];
      p.state[slab + (local + r) * n + j] = gx0[r * n + j];
      p.state[2 * slab + (local + r) * n + j] = gx0[(R + r) * n + j];
    } else if (p.grad_x) {
      p.grad_x[(t.t.flat + r) * n + j] = static_cast<float>(gx[r * n + j]);
    }
  });
  if (!first) {
    for_elements<R>(once + code.g_once_columns, [&](int r, int j) {
      if (r < t.rows)
        p.kept[(local + r) * (once + code.g_once_columns) + j] =
            j < once ? t.t.v[r * t.t.ld + j] : t.g[r * t.ld + j - once];
    });
  } else if (p.grad_cond) {
    for_elements<R>(code.cond_width, [&](int r, int j) {
      if (r < t.rows)
        p.grad_cond[(t.t.flat + r) * code.cond_width + j] = t.g[r * t.ld + code.g_cond + j];
    });
  }
}

// x before the step into its columns; what the step starts from cleared.
template <int R>
__device__ void prepare(const Backward& p, const GradientTile& t) {
  const Code& code = p.code;
  const Data& d = p.data;
  const int n = code.x_width;
  const float* x = p.path + (t.t.step * d.groups * d.batch + t.t.flat) * n;
  for_elements<R>(
      n, [&](int r, int j) { t.t.v[r * t.t.ld + code.x + j] = r < t.rows ? x[r * n + j] : 0.f; });
  for (int i = 0; i < code.zeros; ++i) {
    const int begin = code.zero[2 * i];
    for_elements<R>(code.zero[2 * i + 1] - begin,
                    [&](int r, int j) { t.g[r * t.ld + begin + j] = 0.f; });
  }
  if (t.table) for_columns(code.table_width, [&](int j) { t.table[j] = 0.f; });
}

// The gradient of the program's result: from that of x after the step, whose own part then stays in
// `gx`. `gx0` carries what later steps' c_prev and c_prev2 terms send to this step's x0 and, behind
// it, to that of the step before.
template <int R>
__device__ void seed(const Backward& p, const GradientTile& t, const double* c, double* gx,
                     double* gx0) {
  const Code& code = p.code;
  const int n = code.x_width;
  const bool adds = code.g_out < code.g_once_columns;
  if (!p.solver.total) {
    for_elements<R>(code.out_width, [&](int r, int j) {
      const float d = r < t.rows ? p.grad_out[(t.t.flat + r) * code.out_width + j] : 0.f;
      put(t.g[r * t.ld + code.g_out + j], d, !adds);
    });
    return;
  }
  for_elements<R>(n, [&](int r, int j) {
    double &d = gx[r * n + j], &later = gx0[r * n + j], &beyond = gx0[(R + r) * n + j];
    const double x = t.t.v[r * t.t.ld + code.x + j], eps = t.t.v[r * t.t.ld + code.out + j];
    const double x0 = c[0] * x - c[1] * eps;
    double dx0 = c[3] * d + later;
    if (x0 < c[6] || x0 > c[7]) dx0 = 0.0;
    later = c[4] * d + beyond;
    beyond = c[8] * d;
    d = c[2] * d + c[0] * dx0;
    put(t.g[r * t.ld + code.g_out + j], static_cast<float>(-c[1] * dx0), !adds);
  });
}

// kScratch: values and gradients are in global memory. A parameter of the template, so that the
// compiler knows where they are.
template <class M, int R, bool kScratch>
__global__ void __launch_bounds__(kThreads, 1)
    denoise_backward_kernel(DOM2_GRID_CONSTANT const Backward p) {
  DOM2_DYNAMIC_SHARED(shared);
  const Code& code = p.code;
  const Data& d = p.data;
  const int n = code.x_width;
  const int64_t group = blockIdx.y, row = int64_t{blockIdx.x} * R;
  unsigned char* rest = shared + ring_bytes(M::kPrecision, false);
  Moments* moments = reinterpret_cast<Moments*>(rest);
  rest += R * sizeof(Moments);
  if constexpr (kScratch)
    rest = reinterpret_cast<unsigned char*>(
        p.scratch + (group * gridDim.x + blockIdx.x) * backward_floats(code.ld, code.g_ld, n, R));
  double *gx = reinterpret_cast<double*>(rest), *gx0 = gx + R * n;
  GradientTile t{};
  t.t.v = reinterpret_cast<float*>(gx0 + 2 * R * n);
  t.t.ld = code.ld;
  t.t.ring = reinterpret_cast<uint4*>(shared);
  t.t.packed = static_cast<const uint4*>(d.packed) + group * code.packets;
  t.t.data = &d;
  t.t.flat = group * d.batch + p.row + row;
  t.g = t.t.v + R * code.ld;
  t.ld = code.g_ld;
  t.packed = static_cast<const uint4*>(p.packed_t) + group * code.packets_t;
  t.moments = moments;
  t.rows = static_cast<int>(min(p.rows - row, int64_t{R}));
  t.row = row;
  t.want_cond = p.grad_cond != nullptr;
  const Streamed<M, R> weights{t.t, code};

  const int passes = max(p.solver.count, 1);
  const bool last = p.solver.first + p.solver.count == p.solver.total;
  start<R>(p, t, last, gx, gx0);
  for (int s = passes - 1; s >= 0; --s) {
    const int64_t step = p.solver.first + s;
    const int first = step == 0 ? 0 : code.once;  // going back, the `once` phase is last
    const auto enter = [&](int i) {               // of what step is instruction i?
      t.t.step = i < code.once ? 0 : step;
      t.t.table = d.table + (t.t.step * d.groups + group) * code.table_width;
    };
    if (p.table)
      t.table =
          p.table + ((int64_t{blockIdx.x} * passes + s) * d.groups + group) * code.table_width;
    t.want_x = p.grad_x != nullptr || step > 0;
    t.t.step = step;
    prepare<R>(p, t);
    __syncthreads();
    for (int i = last && s == passes - 1 ? 0 : code.once; i < code.instructions; ++i) {
      enter(i);
      run_instruction<M, R>(t.t, code, code.instruction[i], weights);
    }
    seed<R>(p, t, p.solver.row[s], gx, gx0);
    __syncthreads();
    for (int i = code.instructions - 1; i >= first; --i) {
      enter(i);
      const int64_t before = i < code.once ? group : group * passes + s;
      run_backward<M, R>(t, p, i, before * p.rows + row);
    }
    if (t.want_x)
      for_elements<R>(n, [&](int r, int j) { gx[r * n + j] += t.g[r * t.ld + code.g_x + j]; });
    __syncthreads();  // before the next step clears columns of others
  }
  finish<R>(p, t, gx, gx0);
}

template <class M, int R, bool kScratch>
cudaError_t start_kernel(const Backward& b, int64_t shared_bytes, void* stream) {
  const unsigned tiles = static_cast<unsigned>((b.rows + R - 1) / R);
  return launch(denoise_backward_kernel<M, R, kScratch>,
                dim3(tiles, static_cast<unsigned>(b.data.groups)), dim3(kThreads),
                static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream), b);
}

template <class M>
cudaError_t start_kernel(const Backward& b, int rows, int64_t shared_bytes, void* stream) {
  if (b.scratch) return start_kernel<M, kScratchRows, true>(b, shared_bytes, stream);
  if (rows == 8) return start_kernel<M, 8, false>(b, shared_bytes, stream);
  return start_kernel<M, 16, false>(b, shared_bytes, stream);
}

}  // namespace

int launch_denoise_backward(const Backward& b, Precision precision, int rows, int64_t shared_bytes,
                            void* stream) {
  return precision == Precision::kBf16 ? start_kernel<Bf16>(b, rows, shared_bytes, stream)
                                       : start_kernel<Fp32>(b, rows, shared_bytes, stream);
}

}  // namespace cuda
}  // namespace dom2
