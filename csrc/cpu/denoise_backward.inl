// Backward of one tile: for each step in reverse, recompute its forward pass from the saved x, then
// run the instructions backwards. Part of kernels.inl, after denoise_kernel.inl.

// Gradient of the linear's input, dz W, into the columns of a.
void linear_input_gradient(const Tile& t, const BackwardCall& b, const ExecInstr& s) {
  const Weight& w = t.e.weights[s.weight];
  const Store to{t.g + s.g_a, t.e.g_width, nullptr, nullptr, w.k, !s.set_a};
  const auto then = [](int, int, int, int) {};
  if (t.call.bf16) {
    const int64_t at = t.group * t.e.bf16_t_size + w.bf16_t;
    multiply_bf16(t, t.g + s.g_out, t.e.g_width, w.n, w.k, b.packed_t, at, to, then);
  } else {
    const float* packed = b.packed_t + t.group * t.e.packed_t_size + w.packed_t;
    multiply<Fp32>(t.g + s.g_out, t.e.g_width, t.rows, w.n, w.k, packed, to, then);
  }
}

#if defined(DOM2_BF16)
// Pairs of rows, one column of both to a word; a row of zeros stands beside an odd last one.
void round_across(const Tile& t, const float* from, int64_t ld, int n, uint32_t* to, int64_t ldo) {
  for (int r = 0; r < t.rows; r += 2) {
    const float* second = r + 1 < t.rows ? from + (r + 1) * ld : nullptr;
    columns(n, [&](int j, int c) {
      const vf odd = second ? load(second + j, c) : vf{};
      store(to + r * ldo + j, pair_bf16(load(from + r * ld + j, c), odd));
    });
  }
}

#endif

// Gradient of the linear's weight, dz^T a, into its sum.
void linear_weight_gradient(const Tile& t, const Partial& p, const ExecInstr& s) {
  const Weight& w = t.e.weights[s.weight];
  float* to = p.weights + t.group * t.e.grad_size + w.grad;
  const float *dz = t.g + s.g_out, *a = t.v + s.a;
#if defined(DOM2_BF16)
  if (t.call.bf16) {
    uint32_t *dzh = bf16_columns(t), *ah = dzh + pad(w.n);
    round_across(t, dz, t.e.g_width, w.n, dzh, t.e.width);
    round_across(t, a, t.e.width, w.k, ah, t.e.width);
    return weight_gradient<Bf16>(dzh, 2 * t.e.width, ah, 2 * t.e.width, pairs(t.rows), w.n, w.k_pad,
                                 to);
  }
#endif
  weight_gradient<Fp32>(dz, t.e.g_width, a, t.e.width, t.rows, w.n, w.k_pad, to);
}

// table gradient += sum over rows of g (times v, where given)
void table_gradient(const Tile& t, const Partial& p, int column, const float* g, const float* v,
                    int n) {
  if (!p.table || column < 0) return;
  float* to = p.table + (t.step * t.call.groups + t.group) * t.e.table_ld + column;
  columns(n, [&](int j, int c) {
    vf s = {};
    for (int r = 0; r < t.rows; ++r) {
      vf d = load(g + r * t.e.g_width + j, c);
      if (v) d *= load(v + r * t.e.width + j, c);
      s += d;
    }
    store(to + j, load(to + j, c) + s, c);
  });
}

// g_to (+)= g_from, n columns of every row
void pass_on(const Tile& t, int from, int to, int n, bool set) {
  for (int r = 0; r < t.rows; ++r) {
    float* g = t.g + r * t.e.g_width;
    columns(n, [&](int j, int c) { put(g + to + j, load(g + from + j, c), c, set); });
  }
}

void layer_norm_backward(const Tile& t, const Partial& p, const ExecInstr& s) {
  const int n = s.width;
  const float* gain = t.table(s.table);
  float* dgain = p.table && s.table >= 0
                     ? p.table + (t.step * t.call.groups + t.group) * t.e.table_ld + s.table
                     : nullptr;
  table_gradient(t, p, s.table2, t.g + s.g_out, nullptr, n);
  for (int r = 0; r < t.rows; ++r) {
    const float* a = t.v + r * t.e.width + s.a;
    const float* dout = t.g + r * t.e.g_width + s.g_out;
    float* da = t.g + r * t.e.g_width + s.g_a;
    const Moments m = moments(a, n, s.value);
    vf mean_d = {}, mean_dx = {};
    columns(n, [&](int j, int c) {
      const vf x = (load(a + j, c) - splat(m.mean)) * splat(m.scale), d0 = load(dout + j, c);
      if (dgain) store(dgain + j, load(dgain + j, c) + d0 * x, c);
      const vf d = gain ? d0 * load(gain + j, c) : d0;  // zero beyond c
      mean_d += d;
      mean_dx += d * x;
    });
    const float md = sum(mean_d) / n, mdx = sum(mean_dx) / n;
    columns(n, [&](int j, int c) {
      const vf x = (load(a + j, c) - splat(m.mean)) * splat(m.scale), d0 = load(dout + j, c);
      const vf d = gain ? d0 * load(gain + j, c) : d0;
      put(da + j, splat(m.scale) * (d - splat(md) - x * splat(mdx)), c, s.set_a);
    });
  }
}

void linear_backward(const Tile& t, const BackwardCall& b, const Partial& p, const ExecInstr& s) {
  const int n = s.width;
  if (s.g_c >= 0) pass_on(t, s.g_out, s.g_c, n, s.set_c);
  if (s.act != 0)
    derivative_any(t.call.bf16, s.act, t.v + s.z, t.e.width, t.g + s.g_out, t.g + s.g_out,
                   t.e.g_width, t.rows, n, true);
  if (s.g_b >= 0) pass_on(t, s.g_out, s.g_b, n, s.set_b);
  table_gradient(t, p, s.table, t.g + s.g_out, nullptr, n);
  if (p.weights) linear_weight_gradient(t, p, s);
  // The first step's x is where the chain starts: its gradient may not be asked for.
  const bool of_x = s.g_a >= t.e.g_x && s.g_a < t.e.g_x + pad(t.e.x_width);
  if (of_x && t.step == 0 && !b.grad_x && !b.keeps_x) return;
  const bool of_cond = s.g_a >= t.e.g_cond && s.g_a < t.e.g_cond + pad(t.e.cond_width);
  if (of_cond && !b.grad_cond) return;  // nobody asked for the gradient of the condition vector
  linear_input_gradient(t, b, s);
}

void instr_backward(const Tile& t, const BackwardCall& b, const Partial& p, const ExecInstr& s) {
  const int n = s.width;
  const int64_t ld = t.e.width, gd = t.e.g_width;
  switch (static_cast<Op>(s.op)) {
    case Op::kLinear:
      return linear_backward(t, b, p, s);
    case Op::kActivation:
      for (int r = 0; r < t.rows; ++r) {
        // The value's and the gradient's columns differ, so rows are handed over one by one.
        const float* z = t.v + r * ld + s.a;
        float d[1024];
        for (int j = 0; j < n; j += 1024) {
          const int c = n - j < 1024 ? n - j : 1024;
          derivative_any(t.call.bf16, s.act, z + j, ld, t.g + r * gd + s.g_out + j, d, gd, 1, c,
                         true);
          float* to = t.g + r * gd + s.g_a + j;
          columns(c, [&](int i, int m) { put(to + i, load(d + i, m), m, s.set_a); });
        }
      }
      return;
    case Op::kAdd:
      if (s.g_b >= 0) pass_on(t, s.g_out, s.g_b, n, s.set_b);
      table_gradient(t, p, s.table, t.g + s.g_out, nullptr, n);
      return pass_on(t, s.g_out, s.g_a, n, s.set_a);
    case Op::kMul:
      table_gradient(t, p, s.table, t.g + s.g_out, t.v + s.a, n);
      for (int r = 0; r < t.rows; ++r) {
        const float* dout = t.g + r * gd + s.g_out;
        const float* a = t.v + r * ld + s.a;
        const float* other = s.b >= 0 ? t.v + r * ld + s.b : t.table(s.table);
        float* ga = t.g + r * gd + s.g_a;
        columns(n, [&](int j, int c) {
          const vf d = load(dout + j, c);
          if (s.g_b >= 0) {
            float* gb = t.g + r * gd + s.g_b;
            put(gb + j, d * load(a + j, c), c, s.set_b);
          }
          put(ga + j, d * load(other + j, c), c, s.set_a);
        });
      }
      return;
    case Op::kLayerNorm:
      return layer_norm_backward(t, p, s);
    case Op::kDropout: {
      const float scale = 1.0f / (1.0f - s.value);
      for (int r = 0; r < t.rows; ++r) {
        const float* dout = t.g + r * gd + s.g_out;
        float* da = t.g + r * gd + s.g_a;
        dropout_row(t, s, r, [&](int j, bool keep) {
          const float d = keep ? dout[j] * scale : 0.f;
          da[j] = s.set_a ? d : da[j] + d;
        });
      }
      return;
    }
    case Op::kCopy:
      return pass_on(t, s.g_out, s.g_a, n, s.set_a);
    default:
      return;
  }
}

void clear(const Tile& t, int begin, int end) {
  for (int r = 0; r < t.rows; ++r)
    for (int j = begin; j < end; j += VL) store(t.g + r * t.e.g_width + j, vf{});
}

// The `once` phase backwards, for each of the tile's condition vectors: what the rows that share
// one have collected is summed first, into the tile's first rows. Then the gradient of the
// condition vectors.
void once_backward(const Tile& t, const BackwardCall& b, const Partial& p) {
  if (!p.weights && !p.table && !b.grad_cond) return;
  const Exec& e = t.e;
  Tile c = t;
  c.rows = vector_of(t, t.rows - 1) + 1;
  const auto first = [&](int r) { return r == 0 || vector_of(t, r) != vector_of(t, r - 1); };
  if (c.rows != t.rows) {
    const int n = e.once_columns - e.cond;
    for (int r = 1; r < t.rows; ++r) {
      const int64_t u = vector_of(t, r);
      if (u == r) continue;
      const float *v = t.v + r * int64_t{e.width} + e.cond, *g = t.g + r * int64_t{e.g_width};
      float *to = t.v + u * e.width + e.cond, *g_to = t.g + u * e.g_width;
      const bool set = first(r);
      columns(e.g_once_end, [&](int j, int m) { put(g_to + j, load(g + j, m), m, set); });
      if (set) columns(n, [&](int j, int m) { store(to + j, load(v + j, m), m); });
    }
  }
  for (int i = e.once_n - 1; i >= 0; --i) instr_backward(c, b, p, e.instrs[i]);
  if (!b.grad_cond) return;
  for (int r = 0; r < t.rows; ++r)
    for (int j = 0; j < e.cond_width; ++j)
      b.grad_cond[t.flat(r) * e.cond_width + j] =
          first(r) ? t.g[vector_of(t, r) * e.g_width + e.g_cond + j] : 0.f;
}

// The gradient of the loop body: from d(x after) in gx to d(eps) and, in gx, what reaches x
// directly. `previous` carries what later steps' c_prev and c_prev2 terms send to this step's x0,
// `before` what they send to that of the step before.
void solver_backward(const Tile& t, const Coefficients& c, const State& g, float* geps) {
  const int n = t.e.x_width;
  for (int r = 0; r < t.rows; ++r)
    for (int j = 0; j < n; ++j) {
      double &d = g.x[r * n + j], &later = g.previous[r * n + j], &beyond = g.before[r * n + j];
      const double x = t.v[r * t.e.width + t.e.x + j], eps = t.v[r * t.e.width + t.e.out + j];
      const double x0 = c.inv_alpha * x - c.sigma_over_alpha * eps;
      double dx0 = c.x0 * d + later;
      if (x0 < c.low || x0 > c.high) dx0 = 0;
      later = c.prev * d + beyond;
      beyond = c.prev2 * d;
      d = c.x * d + c.inv_alpha * dx0;
      geps[r * n + j] = static_cast<float>(-c.sigma_over_alpha * dx0);
    }
}

// The instructions of one step backwards, from the gradient of its result, contiguous rows of n.
void phase_backward(const Tile& t, const BackwardCall& b, const Partial& p, const float* from,
                    int n) {
  const Exec& e = t.e;
  const bool early = e.g_out < e.g_once_end;
  for (int i = 0; i < e.zero_n; i += 2) clear(t, e.zero[i], e.zero[i + 1]);
  for (int r = 0; r < t.rows; ++r) {
    float* to = t.g + r * e.g_width + e.g_out;
    for (int j = 0; j < n; ++j) to[j] = early ? to[j] + from[r * n + j] : from[r * n + j];
  }
  for (int i = e.instrs_n - 1; i >= e.once_n; --i) instr_backward(t, b, p, e.instrs[i]);
}

void backward(const Call& call, const BackwardCall& b, const Partial& p, int64_t group, int64_t row,
              int count, float* scratch) {
  const Exec& e = *call.exec;
  float* g = scratch + static_cast<int64_t>(count) * e.width;
  Tile t{call, e, group, row, count, scratch, g, 0};
  const int n = e.x_width, out_n = call.solver ? n : e.out_width;
  const State of(g + static_cast<int64_t>(count) * e.g_width, int64_t{count} * n);
  double* gx = of.x;
  float* geps = of.end(int64_t{count} * n);
  const int64_t slab = call.groups * call.batch * n;
  once_phase(t);
  clear(t, 0, e.g_once_end);
  for (int r = 0; r < count; ++r)
    for (int j = 0; j < n; ++j) {
      of.previous[r * n + j] = of.before[r * n + j] = 0;
      gx[r * n + j] = 0;
      if (!call.solver) continue;
      const double last = b.path[call.steps * slab + t.flat(r) * n + j];
      if (!(last < call.out_low || last > call.out_high))
        gx[r * n + j] = b.grad_out[t.flat(r) * n + j];
    }
  for (int64_t s = call.steps - 1; s >= 0; --s) {
    t.step = s;
    put_x(t, b.path + s * slab + t.flat(0) * n);
    run_phase(t, false);
    if (call.solver) solver_backward(t, coefficients(call, s), of, geps);
    phase_backward(t, b, p, call.solver ? geps : b.grad_out + t.flat(0) * out_n, out_n);
    for (int r = 0; r < count; ++r)
      for (int j = 0; j < n; ++j) gx[r * n + j] += g[r * e.g_width + e.g_x + j];
  }
  t.step = 0;
  once_backward(t, b, p);
  for (int r = 0; r < count; ++r) {
    if (b.grad_x)
      for (int j = 0; j < n; ++j) b.grad_x[t.flat(r) * n + j] = static_cast<float>(gx[r * n + j]);
  }
}
