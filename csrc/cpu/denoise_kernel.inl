// The CPU executor of `denoise` and `run_program`, forward: a tile of rows goes through all layers
// and all steps while its activations stay in cache. Part of kernels.inl.

// ---- elementwise helpers: columns [0, n) of one row, the last vector cut short ----

template <class F>
DOM2_INLINE void columns(int n, const F& f) {
  int j = 0;
  for (; j + VL <= n; j += VL) f(j, VL);
  if (j < n) f(j, n - j);
}

DOM2_INLINE void put(float* p, vf v, int n, bool set) { store(p, set ? v : v + load(p, n), n); }

template <class M, Act A>
void activate_block(const float* z, float* out, const float* add, int64_t ld, int rows, int cols) {
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += VL) {
      vf v = activate<M, A>(load(z + r * ld + j));
      if (add) v += load(add + r * ld + j);
      store(out + r * ld + j, v);
    }
}

void activate_any(bool bf16, int act, const float* z, float* out, const float* add, int64_t ld,
                  int rows, int cols) {
#define DOM2_CALL(A)                                           \
  bf16 ? activate_block<Quick, A>(z, out, add, ld, rows, cols) \
       : activate_block<Exact, A>(z, out, add, ld, rows, cols)
  DOM2_ACT_SWITCH(act)
#undef DOM2_CALL
}

// dz = dout * act'(z), in place or added elsewhere
template <class M, Act A>
void derivative_rows(const float* z, int64_t ldz, const float* dout, float* dz, int64_t ld,
                     int rows, int n, bool set) {
  for (int r = 0; r < rows; ++r)
    columns(n, [&](int j, int c) {
      const vf d = load(dout + r * ld + j, c) * derivative<M, A>(load(z + r * ldz + j, c));
      put(dz + r * ld + j, d, c, set);
    });
}

void derivative_any(bool bf16, int act, const float* z, int64_t ldz, const float* dout, float* dz,
                    int64_t ld, int rows, int n, bool set) {
#define DOM2_CALL(A)                                                   \
  bf16 ? derivative_rows<Quick, A>(z, ldz, dout, dz, ld, rows, n, set) \
       : derivative_rows<Exact, A>(z, ldz, dout, dz, ld, rows, n, set)
  DOM2_ACT_SWITCH(act)
#undef DOM2_CALL
}

// ---- one tile of rows ----

struct Tile {
  const Call& call;
  const Exec& e;
  int64_t group, row;  // first row within the group
  int rows;
  float* v;  // values [rows, e.width]
  float* g;  // gradients [rows, e.g_width], backward only
  int64_t step;

  const float* table(int column) const {
    return column < 0 ? nullptr : call.table + (step * call.groups + group) * e.table_ld + column;
  }
  int64_t flat(int r) const { return group * call.batch + row + r; }
  uint32_t stream(const ExecInstr& s) const {
    return kStreamDropout + static_cast<uint32_t>(step) * e.sites + s.site;
  }
};

struct Moments {
  float mean, scale;
};

DOM2_INLINE Moments moments(const float* a, int n, float eps) {
  vf s = {};
  columns(n, [&](int j, int c) { s += load(a + j, c); });
  const float mean = sum(s) / n;
  vf q = {};
  columns(n, [&](int j, int c) {
    const vf d = load(a + j, c) - splat(mean);
    if (c == VL) {
      q += d * d;
    } else {
      float part[VL];
      store(part, d * d);
      for (int i = 0; i < c; ++i) q[i] += part[i];
    }
  });
  return {mean, 1.0f / __builtin_sqrtf(sum(q) / n + eps)};
}

// Calls f(column, keep) for each column of one row of a dropout mask.
template <class F>
DOM2_INLINE void dropout_row(const Tile& t, const ExecInstr& s, int r, const F& f) {
  const Rng rng{t.call.seed, t.call.offset};
  const uint64_t blocks = (s.width + 3) / 4, first = static_cast<uint64_t>(t.flat(r)) * blocks;
  const uint64_t limit = static_cast<uint64_t>(s.drop_below);
  for (uint64_t b = 0; b < blocks; ++b) {
    const Words w = philox(rng, t.stream(s), first + b);
    for (int i = 0; i < 4 && static_cast<int>(4 * b) + i < s.width; ++i)
      f(static_cast<int>(4 * b) + i, w.w[i] >= limit);
  }
}

// ---- bf16 weights, and where they are multiplied by bf16 numbers, the left operand, too: it is
// ---- rounded into the last columns of each row, see Exec::bf16

#if defined(DOM2_BF16)
// `n` floats of every row, two to a word; the word beside an odd last one holds a zero.
void round_along(const Tile& t, const float* from, int64_t ld, int n, uint32_t* to, int64_t ldo) {
  for (int r = 0; r < t.rows; ++r)
    columns(n, [&](int j, int c) {
      const vh h = round_bf16(load(from + r * ld + j, c));
      __builtin_memcpy(reinterpret_cast<uint16_t*>(to + r * ldo) + j, &h, sizeof h);
    });
}

uint32_t* bf16_columns(const Tile& t) { return reinterpret_cast<uint32_t*>(t.v + t.e.bf16); }
#endif

// out = a [rows, k] times a packed matrix of bf16 numbers, see Store.
template <class Then>
DOM2_INLINE void multiply_bf16(const Tile& t, const float* a, int64_t lda, int k, int n,
                               const float* packed, int64_t at, const Store& to, const Then& then) {
  const uint32_t* weights = reinterpret_cast<const uint32_t*>(packed) + at;
#if defined(DOM2_BF16)
  uint32_t* rounded = bf16_columns(t);
  round_along(t, a, lda, k, rounded, t.e.width);
  multiply<Bf16>(rounded, t.e.width, t.rows, pairs(k), n, weights, to, then);
#else
  multiply<KeptBf16>(a, lda, t.rows, k, n, weights, to, then);
#endif
}

void run_linear(const Tile& t, const ExecInstr& s) {
  const Weight& w = t.e.weights[s.weight];
  const int64_t ld = t.e.width;
  float* z = t.v + (s.z >= 0 ? s.z : s.out);
  float* out = t.v + s.out;
  const float* add = s.c >= 0 ? t.v + s.c : nullptr;
  const float* pre = s.b >= 0 ? t.v + s.b : nullptr;
  const bool last = s.act != 0 || add;
  const Store to{z, ld, t.table(s.table), pre, pad(w.n), false};
  const auto then = [&](int r, int n, int col, int cols) {
    if (last) {
      const int64_t o = r * ld + col;
      activate_any(t.call.bf16, s.act, z + o, out + o, add ? add + o : nullptr, ld, n, cols);
    }
  };
  if (t.call.bf16) {
    const int64_t at = t.group * t.e.bf16_size + w.bf16;
    multiply_bf16(t, t.v + s.a, ld, w.k, w.n, t.call.packed, at, to, then);
  } else {
    const float* packed = t.call.packed + t.group * t.e.packed_size + w.packed;
    multiply<Fp32>(t.v + s.a, ld, t.rows, w.k, w.n, packed, to, then);
  }
}

void run_instr(const Tile& t, const ExecInstr& s) {
  const int64_t ld = t.e.width;
  const int n = s.width;
  if (s.op == static_cast<int>(Op::kLinear)) return run_linear(t, s);
  for (int r = 0; r < t.rows; ++r) {
    const float* a = t.v + r * ld + s.a;
    float* out = t.v + r * ld + s.out;
    const float* second = s.b >= 0 ? t.v + r * ld + s.b : t.table(s.table);
    switch (static_cast<Op>(s.op)) {
      case Op::kActivation:
        activate_any(t.call.bf16, s.act, a, out, nullptr, ld, 1, n);
        break;
      case Op::kAdd:
        columns(n, [&](int j, int c) { store(out + j, load(a + j, c) + load(second + j, c), c); });
        break;
      case Op::kMul:
        columns(n, [&](int j, int c) { store(out + j, load(a + j, c) * load(second + j, c), c); });
        break;
      case Op::kLayerNorm: {
        const Moments m = moments(a, n, s.value);
        const float *gain = t.table(s.table), *shift = t.table(s.table2);
        columns(n, [&](int j, int c) {
          vf x = (load(a + j, c) - splat(m.mean)) * splat(m.scale);
          if (gain) x *= load(gain + j, c);
          if (shift) x += load(shift + j, c);
          store(out + j, x, c);
        });
        break;
      }
      case Op::kDropout: {
        const float scale = 1.0f / (1.0f - s.value);
        dropout_row(t, s, r, [&](int j, bool keep) { out[j] = keep ? a[j] * scale : 0.f; });
        break;
      }
      case Op::kCopy:
        columns(n, [&](int j, int c) { store(out + j, load(a + j, c), c); });
        break;
      default:
        break;
    }
  }
}

// x of the tile into its column, from `from` (contiguous rows of x_width)
void put_x(const Tile& t, const float* from) {
  const int n = t.e.x_width;
  for (int r = 0; r < t.rows; ++r)
    for (int j = 0; j < n; ++j) t.v[r * t.e.width + t.e.x + j] = from[r * n + j];
}

// Which of the tile's condition vectors row r reads: `repeat` rows in a line share one.
DOM2_INLINE int vector_of(const Tile& t, int r) {
  return static_cast<int>((t.row + r) / t.call.repeat - t.row / t.call.repeat);
}

// The tile's condition vectors into its first rows
void put_cond(const Tile& t, int vectors) {
  const int n = t.e.cond_width;
  const int64_t first = t.group * (t.call.batch / t.call.repeat) + t.row / t.call.repeat;
  for (int r = 0; r < vectors; ++r)
    for (int j = 0; j < n; ++j)
      t.v[r * t.e.width + t.e.cond + j] = t.call.cond[(first + r) * n + j];
}

void run_phase(const Tile& t, bool once) {
  for (int i = once ? 0 : t.e.once_n; i < (once ? t.e.once_n : t.e.instrs_n); ++i)
    run_instr(t, t.e.instrs[i]);
}

// The condition vectors and the `once` phase: computed for each of the tile's condition vectors, in
// its first rows, then spread over the rows that share it, last first.
void once_phase(const Tile& t) {
  Tile c = t;
  c.rows = vector_of(t, t.rows - 1) + 1;
  put_cond(c, c.rows);
  run_phase(c, true);
  if (c.rows == t.rows) return;
  const int64_t ld = t.e.width;
  const int n = t.e.once_columns - t.e.cond;
  for (int r = t.rows - 1; r > 0; --r) {
    const float* from = t.v + vector_of(t, r) * ld + t.e.cond;
    float* to = t.v + r * ld + t.e.cond;
    if (from != to) columns(n, [&](int j, int m) { store(to + j, load(from + j, m), m); });
  }
}

struct Coefficients {
  double inv_alpha, sigma_over_alpha, x, x0, prev, noise, low, high, prev2;
};

DOM2_INLINE Coefficients coefficients(const Call& call, int64_t step) {
  const double* c = call.solver + step * kSolverColumns;
  return {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]};
}

DOM2_INLINE double clamp(double v, double low, double high) {
  return v < low ? low : v > high ? high : v;  // NaN stays NaN
}

// What the solver carries from step to step, one number per row and column of x each: x, its guess
// of the clean action, x0, and the one before; backward, their gradients.
struct State {
  double *x, *previous, *before;

  State(float* scratch, int64_t size)
      : x(reinterpret_cast<double*>(scratch)), previous(x + size), before(previous + size) {}
  float* end(int64_t size) const { return reinterpret_cast<float*>(before + size); }
};

// x_T of the tile, given or drawn; there is no x0 before it.
void start(const Tile& t, const State& s) {
  const Rng rng{t.call.seed, t.call.offset};
  const int n = t.e.x_width;
  float z[1024];
  for (int r = 0; r < t.rows; ++r) {
    const float* from = t.call.x ? t.call.x + t.flat(r) * n : nullptr;
    for (int j0 = 0; j0 < n; j0 += 1024) {
      const int m = n - j0 < 1024 ? n - j0 : 1024;
      if (!from) normal_columns(rng, 0, t.flat(r), n, j0, m, z);
      for (int j = 0; j < m; ++j) {
        const int at = r * n + j0 + j;
        s.x[at] = from ? from[j0 + j] : z[j];
        s.previous[at] = s.before[at] = 0;
      }
    }
  }
}

// x and x0 after step t.step, from the program's result.
void advance(const Tile& t, const State& s) {
  const Rng rng{t.call.seed, t.call.offset};
  const Coefficients c = coefficients(t.call, t.step);
  const int n = t.e.x_width;
  const int64_t slab = t.call.groups * t.call.batch * n;
  float z[1024];
  for (int r = 0; r < t.rows; ++r)
    for (int j0 = 0; j0 < n; j0 += 1024) {
      const int m = n - j0 < 1024 ? n - j0 : 1024;
      const float* drawn = z;
      if (c.noise != 0.0) {
        if (t.call.noise)
          drawn = t.call.noise + t.step * slab + t.flat(r) * n + j0;
        else
          normal_columns(rng, static_cast<uint32_t>(1 + t.step), t.flat(r), n, j0, m, z);
      }
      for (int j = 0; j < m; ++j) {
        double& v = s.x[r * n + j0 + j];
        double& p = s.previous[r * n + j0 + j];
        double& q = s.before[r * n + j0 + j];
        const double eps = t.v[r * t.e.width + t.e.out + j0 + j];
        const double x0 = clamp(c.inv_alpha * v - c.sigma_over_alpha * eps, c.low, c.high);
        v = c.x * v + c.x0 * x0 + c.prev * p;
        if (c.prev2 != 0.0) v += c.prev2 * q;
        if (c.noise != 0.0) v += c.noise * drawn[j];
        q = p;
        p = x0;
      }
    }
}

void forward(const Call& call, int64_t group, int64_t row, int count, float* scratch) {
  const Exec& e = *call.exec;
  Tile t{call, e, group, row, count, scratch, nullptr, 0};
  const int n = e.x_width;
  const State state(scratch + static_cast<int64_t>(count) * e.width, int64_t{count} * n);
  start(t, state);
  once_phase(t);
  const int64_t slab = call.groups * call.batch * n;  // one step of path or noise
  for (int64_t s = 0; s < call.steps; ++s) {
    t.step = s;
    for (int r = 0; r < count; ++r)
      for (int j = 0; j < n; ++j) {
        const float v = static_cast<float>(state.x[r * n + j]);
        t.v[r * e.width + e.x + j] = v;
        if (call.path) call.path[s * slab + t.flat(r) * n + j] = v;
      }
    run_phase(t, false);
    if (!call.solver) break;
    advance(t, state);
  }
  for (int r = 0; r < count; ++r) {
    if (!call.solver) {
      for (int j = 0; j < e.out_width; ++j)
        call.out[t.flat(r) * e.out_width + j] =
            static_cast<float>(clamp(t.v[r * e.width + e.out + j], call.out_low, call.out_high));
      continue;
    }
    for (int j = 0; j < n; ++j) {
      const double v = state.x[r * n + j];
      if (call.path) call.path[call.steps * slab + t.flat(r) * n + j] = static_cast<float>(v);
      call.out[t.flat(r) * n + j] = static_cast<float>(clamp(v, call.out_low, call.out_high));
    }
  }
}
