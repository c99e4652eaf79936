// Losses whose gradient is known as soon as a tile's results are: the tile goes forward, through
// the loss and backward while its activations are in cache. Part of kernels.inl, after
// denoise_backward.inl.

Tile tile_of(const Call& call, int64_t group, int64_t row, int count, float* scratch) {
  float* g = scratch + static_cast<int64_t>(count) * call.exec->width;
  return {call, *call.exec, group, row, count, scratch, g, 0};
}

// One pass from x in its columns. `loss` reads the result and writes its gradient.
template <class Loss>
DOM2_INLINE void pass(const Tile& t, const BackwardCall& b, const Partial& p, const Loss& loss) {
  const Exec& e = t.e;
  once_phase(t);
  run_phase(t, false);
  clear(t, 0, e.g_once_end);
  for (int i = 0; i < e.zero_n; i += 2) clear(t, e.zero[i], e.zero[i + 1]);
  loss();
  if (!b.packed_t) return;
  for (int i = e.instrs_n - 1; i >= e.once_n; --i) instr_backward(t, b, p, e.instrs[i]);
  once_backward(t, b, p);
  if (!b.grad_x) return;
  for (int r = 0; r < t.rows; ++r)
    for (int j = 0; j < e.x_width; ++j)
      b.grad_x[t.flat(r) * e.x_width + j] = t.g[r * e.g_width + e.g_x + j];
}

void denoising_loss(const Call& call, const BackwardCall& b, const Partial& p, const float* target,
                    int64_t group, int64_t row, int count, float* scratch, double* sums) {
  const Tile t = tile_of(call, group, row, count, scratch);
  const Exec& e = t.e;
  const int n = e.out_width;
  const float scale = static_cast<float>(2.0 / (static_cast<double>(call.batch) * n));
  put_x(t, call.x + t.flat(0) * e.x_width);
  double sum = 0;
  pass(t, b, p, [&] {
    for (int r = 0; r < count; ++r)
      for (int j = 0; j < n; ++j) {
        const float d = t.v[r * e.width + e.out + j] - target[t.flat(r) * n + j];
        sum += static_cast<double>(d) * d;
        t.g[r * e.g_width + e.g_out + j] = scale * d;
      }
  });
  sums[0] = sum;
}

// The rows of one observation: values q, ldq floats apart, to the gradient of td + weight * cql in
// g, ldg floats apart; adds to sums what they contribute. `densities` are of rows 1 on, or null.
void conserve(const ConservativeCall& l, const float* q, int64_t ldq, const float* densities,
              int rows, float target, double share, float* g, int64_t ldg, double* sums) {
  const auto value = [&](int m) { return q[m * ldq] - (densities ? densities[m - 1] : 0.0f); };
  float top = value(1);
  for (int m = 2; m < rows; ++m) top = value(m) > top ? value(m) : top;
  double total = 0;
  for (int m0 = 1; m0 < rows; m0 += VL) {
    const int n = rows - m0 < VL ? rows - m0 : VL;
    vf v = {};
    for (int i = 0; i < n; ++i) v[i] = value(m0 + i) - top;
    v = vexp(v);
    for (int i = 0; i < n; ++i) {
      total += v[i];
      g[(m0 + i) * ldg] = v[i];
    }
  }
  const float scale = static_cast<float>(share * l.weight / total);
  for (int m = 1; m < rows; ++m) g[m * ldg] *= scale;
  const double d = static_cast<double>(q[0]) - target;
  g[0] = static_cast<float>(share * (2 * d - l.weight));
  sums[0] += d * d;
  sums[1] += top - l.log_density + __builtin_log(total) - q[0];
}

void conservative_loss(const Call& given, const BackwardCall& b, const Partial& p,
                       const ConservativeCall& l, int64_t group, int64_t row, int count,
                       float* scratch, double* sums) {
  const int64_t data = group % l.data_groups, each = given.repeat, batch = given.batch / each;
  Call call = given;
  if (call.cond) call.cond += (data - group) * batch * call.exec->cond_width;
  const Tile t = tile_of(call, group, row, count, scratch);
  const Exec& e = t.e;
  const int n = e.x_width;
  for (int r = 0; r < count; ++r) {
    const int64_t at = data * batch + (row + r) / each, m = (row + r) % each;
    const float* from = m ? l.proposed + (at * (each - 1) + m - 1) * n : l.act + at * n;
    for (int j = 0; j < n; ++j) t.v[r * e.width + e.x + j] = from[j];
  }
  sums[0] = sums[1] = 0;
  pass(t, b, p, [&] {
    for (int r = 0; r < count; ++r) l.q[t.flat(r)] = t.v[r * e.width + e.out];
    for (int r = 0; r < count; r += static_cast<int>(each)) {
      const int64_t at = data * batch + (row + r) / each;
      const float* densities = l.log_densities ? l.log_densities + at * (each - 1) : nullptr;
      conserve(l, t.v + r * e.width + e.out, e.width, densities, static_cast<int>(each),
               l.target[at], 1.0 / batch, t.g + r * e.g_width + e.g_out, e.g_width, sums);
    }
  });
}

// The whole denoising loop (or one pass that makes the action), the critic on its result, and both
// backwards.
void chain_value(const Call& call, const BackwardCall& b, const Partial& p, const ChainCall& l,
                 int64_t group, int64_t row, int count, float* scratch, double* sums) {
  const Exec &e = *call.exec, &c = *l.critic.exec;
  const int n = c.x_width;                                     // of an action
  const int64_t slab = static_cast<int64_t>(count) * e.width;  // the values of one step
  float* g = scratch + (l.keep ? call.steps : 1) * slab;
  const State state(g + static_cast<int64_t>(count) * e.g_width, int64_t{count} * n);
  double* x = state.x;
  float* path = state.end(int64_t{count} * n);
  float* geps = path + call.steps * count * n;
  Tile t{call, e, group, row, count, scratch, g, 0};
  const int begin = e.cond, columns_n = e.once_columns - begin;

  start(t, state);
  once_phase(t);
  const int64_t steps = call.solver ? call.steps : 0;
  if (steps == 0) {
    run_phase(t, false);
    for (int r = 0; r < count; ++r)
      for (int j = 0; j < n; ++j) x[r * n + j] = t.v[r * e.width + e.out + j];
  }
  for (int64_t s = 0; s < steps; ++s) {
    t.step = s;
    if (l.keep && s > 0) {
      t.v = scratch + s * slab;
      for (int r = 0; r < count; ++r) {
        const float* from = scratch + r * static_cast<int64_t>(e.width) + begin;
        float* to = t.v + r * static_cast<int64_t>(e.width) + begin;
        columns(columns_n, [&](int j, int m) { store(to + j, load(from + j, m), m); });
      }
    }
    float* now = path + s * count * n;
    for (int i = 0; i < count * n; ++i) now[i] = static_cast<float>(x[i]);
    put_x(t, now);
    run_phase(t, false);
    advance(t, state);
  }

  const Tile q = tile_of(l.critic, group, row, count, geps + count * n);
  for (int r = 0; r < count; ++r)
    for (int j = 0; j < n; ++j)
      q.v[r * c.width + c.x + j] = l.act[q.flat(r) * n + j] =
          static_cast<float>(clamp(x[r * n + j], call.out_low, call.out_high));
  BackwardCall of_x{};  // of the critic, the gradient of its x is all that is wanted
  of_x.packed_t = b.packed_t ? l.packed_t : nullptr;
  of_x.keeps_x = true;
  sums[0] = 0;
  pass(q, of_x, {nullptr, nullptr}, [&] {
    for (int r = 0; r < count; ++r) {
      const float value = q.v[r * c.width + c.out];
      l.q[q.flat(r)] = value;
      sums[0] += value;
      q.g[r * c.g_width + c.g_out] = static_cast<float>(1.0 / call.batch);
    }
  });
  if (!b.packed_t) return;

  clear(t, 0, e.g_once_end);
  for (int r = 0; r < count; ++r)
    for (int j = 0; j < n; ++j) {  // x becomes its gradient, x0 that of the step after
      const bool clipped = x[r * n + j] < call.out_low || x[r * n + j] > call.out_high;
      x[r * n + j] = clipped ? 0 : q.g[r * c.g_width + c.g_x + j];
      state.previous[r * n + j] = state.before[r * n + j] = 0;
    }
  if (steps == 0) {
    for (int i = 0; i < count * n; ++i) geps[i] = static_cast<float>(x[i]);
    phase_backward(t, b, p, geps, n);
  }
  for (int64_t s = steps - 1; s >= 0; --s) {
    t.step = s;
    t.v = scratch + (l.keep ? s : 0) * slab;
    if (!l.keep) {
      put_x(t, path + s * count * n);
      run_phase(t, false);
    }
    solver_backward(t, coefficients(call, s), state, geps);
    phase_backward(t, b, p, geps, n);
    for (int r = 0; r < count; ++r)
      for (int j = 0; j < n; ++j) x[r * n + j] += g[r * e.g_width + e.g_x + j];
  }
  once_backward(t, b, p);  // t is the first step again
}
