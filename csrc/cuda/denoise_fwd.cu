// denoise and run_program, forward: the whole loop in one launch. dom2_fast/ops/reference.py
// defines it.
//
// A block takes a tile of R rows of one group through all instructions and all steps; its values
// stay in shared memory. `kResident`: the weights of the steps stay on the chip, too, in shared
// memory and, in bf16, one matrix in registers; blocks then take one tile after the other. Else
// weights stream through L2 (gemm.h).
#include "launch.h"
#include "steps.h"

namespace dom2 {
namespace cuda {
namespace {

// Finds a matrix where it is.
template <class M, int R, bool kResident>
struct Weights {
  const Tile& t;
  const Code& code;
  const Held* held;

  __device__ __forceinline__ void multiply(Sums<M, R>& sums, int matrix, int tile,
                                           const float* a) const {
    const Matrix& m = code.matrix[matrix];
    const Operand w = operand(m, t.packed);
    const bool aligned = (a - t.v) % 4 == 0;
    if constexpr (kResident) {
      if constexpr (M::kPrecision == Precision::kBf16)
        if (m.place == Place::kRegisters)
          return held->template multiply<R>(sums, w, a, t.ld, aligned);
      if (m.place == Place::kShared)
        return multiply_shared<M, R>(sums, w, tile, a, t.ld, aligned, t.resident + m.shared);
    }
    multiply_streamed<M, R, ring_stages(M::kPrecision, kResident)>(sums, w, tile, a, t.ld, aligned,
                                                                   t.ring);
  }
};

// Calls f(row, first column, how many) for blocks of four columns of x, always the same thread for
// the same block, so that what one thread keeps needs no barrier.
template <int R, class F>
__device__ __forceinline__ void for_x(int width, const F& f) {
  const int blocks = (width + 3) / 4;
  for (int i = threadIdx.x; i < R * blocks; i += kThreads) {
    const int j = i % blocks * 4;
    f(i / blocks, j, min(4, width - j));
  }
}

__device__ __forceinline__ double clamp(double v, double low, double high) {
  return v < low ? low : v > high ? high : v;  // NaN stays NaN
}

// x_T, or what an earlier launch left, into `x`, `previous` (x0) and, behind it, the x0 before.
template <int R>
__device__ void start(const Forward& p, const Tile& t, int64_t row, double* x, double* previous) {
  const Data& d = p.data;
  const int n = p.code.x_width;
  const int64_t slab = d.groups * d.batch * n;
  for_x<R>(n, [&](int r, int j, int count) {
    float z[4] = {0.f, 0.f, 0.f, 0.f};
    const int64_t at = (t.flat + r) * n + j;
    const bool real = row + r < d.batch, later = p.solver.first > 0;
    if (real && !later) {
      if (!d.x) normal_columns(rng_of(d), 0, t.flat + r, n, j, count, z);
      for (int i = 0; d.x && i < count; ++i) z[i] = d.x[at + i];
    }
    for (int i = 0; i < count; ++i) {
      x[r * n + j + i] = real && later ? p.state[at + i] : z[i];
      previous[r * n + j + i] = real && later ? p.state[slab + at + i] : 0.0;
      previous[(R + r) * n + j + i] = real && later ? p.state[2 * slab + at + i] : 0.0;
    }
  });
}

// One step of the solver, from the network's result in the columns at `out`.
template <int R>
__device__ void advance(const Forward& p, const Tile& t, int64_t row, const double* c, double* x,
                        double* previous) {
  const Data& d = p.data;
  const int n = p.code.x_width;
  const int64_t slab = d.groups * d.batch * n;
  for_x<R>(n, [&](int r, int j, int count) {
    float z[4] = {0.f, 0.f, 0.f, 0.f};
    const double c_noise = c[5];
    if (c_noise != 0.0 && row + r < d.batch) {
      if (!d.noise)
        normal_columns(rng_of(d), static_cast<uint32_t>(1 + t.step), t.flat + r, n, j, count, z);
      for (int i = 0; d.noise && i < count; ++i)
        z[i] = d.noise[t.step * slab + (t.flat + r) * n + j + i];
    }
    for (int i = 0; i < count; ++i) {
      double& v = x[r * n + j + i];
      double &last = previous[r * n + j + i], &before = previous[(R + r) * n + j + i];
      const double eps = t.v[r * t.ld + p.code.out + j + i];
      const double x0 = clamp(c[0] * v - c[1] * eps, c[6], c[7]);
      v = c[2] * v + c[3] * x0 + c[4] * last;
      if (c[8] != 0.0) v += c[8] * before;
      if (c_noise != 0.0) v += c_noise * z[i];
      before = last;
      last = x0;
    }
  });
}

// The result of the loop, or what the next launch goes on from.
template <int R>
__device__ void finish(const Forward& p, const Tile& t, int64_t row, const double* x,
                       const double* previous) {
  const Data& d = p.data;
  const int n = p.code.x_width;
  const int64_t slab = d.groups * d.batch * n;
  const bool last = p.solver.first + p.solver.count == p.solver.total;
  for_x<R>(n, [&](int r, int j, int count) {
    if (row + r >= d.batch) return;
    for (int i = 0; i < count; ++i) {
      const int64_t at = (t.flat + r) * n + j + i;
      const double v = x[r * n + j + i];
      if (last) {
        if (d.path) d.path[d.steps * slab + at] = static_cast<float>(v);
        d.out[at] = static_cast<float>(clamp(v, p.solver.out_low, p.solver.out_high));
      } else {
        p.state[at] = v;
        p.state[slab + at] = previous[r * n + j + i];
        p.state[2 * slab + at] = previous[(R + r) * n + j + i];
      }
    }
  });
}

template <class M, int R, bool kResident>
__global__ void __launch_bounds__(kThreads, 1) denoise_kernel(DOM2_GRID_CONSTANT const Forward p) {
  DOM2_DYNAMIC_SHARED(shared);
  const Code& code = p.code;
  const Data& d = p.data;
  const int64_t group = blockIdx.y;
  uint4* resident = reinterpret_cast<uint4*>(shared);
  uint4* ring = resident + p.resident;
  unsigned char* rest =
      reinterpret_cast<unsigned char*>(ring) + ring_bytes(M::kPrecision, kResident);
  const int n = code.x_width;
  // Not with resident weights, whose tiles always fit: the compiler then knows that values are in
  // shared memory.
  if constexpr (!kResident) {
    const int64_t block = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
    if (p.scratch)
      rest = reinterpret_cast<unsigned char*>(p.scratch + block * tile_floats(code.ld, n, R));
  }
  double* x = reinterpret_cast<double*>(rest);
  double* previous = x + R * n;
  Tile t{reinterpret_cast<float*>(rest) + x_floats(n, R),
         code.ld,
         ring,
         resident,
         nullptr,
         nullptr,
         &d,
         0,
         0};
  t.packed = static_cast<const uint4*>(d.packed) + group * code.packets;

  Held held;
  if constexpr (kResident) {
    for (int i = 0; i < code.matrices; ++i) {
      const Matrix& m = code.matrix[i];
      if (M::kPrecision == Precision::kBf16 && m.place == Place::kRegisters)
        held.load(operand(m, t.packed));
      if (m.place == Place::kShared)
        for (int q = threadIdx.x; q < m.tiles * m.packets * kWarp; q += kThreads)
          cp_async16(resident + m.shared + q, t.packed + m.first + q);
    }
    cp_async_commit();
    cp_async_wait<0>();  // the barrier before the first instruction makes them everyone's
  }
  const Weights<M, R, kResident> weights{t, code, &held};

  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    const int64_t row = tile * R;
    t.flat = group * d.batch + row;
    start<R>(p, t, row, x, previous);
    if (code.cond_width) put_cond<R>(t.v + code.cond, t.ld, code.cond_width, d, group, row);
    const int passes = max(p.solver.count, 1);
    for (int s = 0; s < passes; ++s) {
      t.step = p.solver.first + s;
      for_x<R>(n, [&](int r, int j, int count) {
        for (int i = 0; i < count; ++i) {
          const float v = static_cast<float>(x[r * n + j + i]);
          t.v[r * t.ld + code.x + j + i] = v;
          if (d.path && row + r < d.batch)
            d.path[((t.step * d.groups * d.batch) + t.flat + r) * n + j + i] = v;
        }
      });
      __syncthreads();
      // One loop for both phases: the body is large, and inlined.
      for (int i = s == 0 ? 0 : code.once; i < code.instructions; ++i) {
        const int64_t table_row = i < code.once ? 0 : t.step;
        t.table = d.table + (table_row * d.groups + group) * code.table_width;
        run_instruction<M, R>(t, code, code.instruction[i], weights);
      }
      if (p.solver.count) advance<R>(p, t, row, p.solver.row[s], x, previous);
    }
    if (p.solver.count) {
      finish<R>(p, t, row, x, previous);
    } else {
      for_elements<R>(code.out_width, [&](int r, int j) {
        if (row + r < d.batch)
          d.out[(t.flat + r) * code.out_width + j] = static_cast<float>(
              clamp(t.v[r * t.ld + code.out + j], p.solver.out_low, p.solver.out_high));
      });
    }
    __syncthreads();  // before the next tile's condition vectors overwrite what was just read
  }
}

template <class M, int R, bool kResident>
cudaError_t start_kernel(const Forward& f, const Shape& s, void* stream) {
  return launch(denoise_kernel<M, R, kResident>,
                dim3(static_cast<unsigned>(s.blocks), static_cast<unsigned>(f.data.groups)),
                dim3(kThreads), static_cast<size_t>(s.shared_bytes),
                static_cast<cudaStream_t>(stream), f);
}

template <class M>
cudaError_t start_kernel(const Forward& f, const Shape& s, void* stream) {
  if (s.resident) {
    if (s.rows == 8) return start_kernel<M, 8, true>(f, s, stream);
    return start_kernel<M, 16, true>(f, s, stream);
  }
  if (s.rows == 8) return start_kernel<M, 8, false>(f, s, stream);
  if (s.rows == 16) return start_kernel<M, 16, false>(f, s, stream);
  return start_kernel<M, 32, false>(f, s, stream);
}

}  // namespace

int launch_denoise(const Forward& f, const Shape& s, void* stream) {
  return s.precision == Precision::kBf16 ? start_kernel<Bf16>(f, s, stream)
                                         : start_kernel<Fp32>(f, s, stream);
}

}  // namespace cuda
}  // namespace dom2
