// The loop, backward: which rows and steps go into one launch, and the sums over rows after it.
#include <algorithm>

#include "backward.h"
#include "run.h"

namespace dom2 {
namespace cuda {
namespace {

// What a launch over `rows` rows and `steps` steps keeps in memory, in floats.
struct Workspace {
  const Code& code;
  int64_t groups, total_steps;
  int tile_rows;
  bool weights, table, scratch;

  int64_t exported(int64_t rows, int64_t steps) const {
    int64_t n = 0;
    for (int i = 0; weights && i < code.instructions; ++i) {
      const Instruction& s = code.instruction[i];
      if (static_cast<Op>(s.op) == Op::kLinear)
        n += (i < code.once ? 1 : steps) * (export_width(s.k) + export_width(s.width));
    }
    return groups * rows * n;
  }
  int64_t sums(int64_t rows, int64_t steps) const {
    return table ? ceil_div(rows, tile_rows) * steps * groups * code.table_width : 0;
  }
  int64_t tiles(int64_t rows) const {
    return scratch ? ceil_div(rows, tile_rows) * groups *
                         backward_floats(code.ld, code.g_ld, code.x_width, tile_rows)
                   : 0;
  }
  int64_t state(int64_t rows, int64_t steps) const {
    return steps < total_steps ? 3 * groups * rows * code.x_width : 0;  // doubles
  }
  int64_t kept(int64_t rows, int64_t steps) const {
    return steps < total_steps ? groups * rows * (code.once_columns + code.g_once_columns) : 0;
  }
  int64_t floats(int64_t rows, int64_t steps) const {
    return exported(rows, steps) + sums(rows, steps) + tiles(rows) + 2 * state(rows, steps) +
           kept(rows, steps);
  }
};

struct Chunks {
  int64_t rows, steps;  // of one launch at most
};

// Enough rows to keep all multiprocessors busy come first, then steps, then more rows.
Chunks cut(const Workspace& w, int64_t batch, int multiprocessors, int64_t limit) {
  const int64_t wave = std::max<int64_t>(multiprocessors / w.groups, 1) * w.tile_rows;
  Chunks c{std::min(batch, wave), std::min<int64_t>(w.total_steps, kMaxSolverRows)};
  while (c.steps > 1 && w.floats(c.rows, c.steps) > limit) --c.steps;
  while (c.rows > w.tile_rows && w.floats(c.rows, c.steps) > limit)
    c.rows = (c.rows - 1) / w.tile_rows * w.tile_rows;
  if (c.steps == w.total_steps)
    while (c.rows < batch && w.floats(c.rows + wave, c.steps) <= limit) c.rows += wave;
  c.rows = std::min(c.rows, batch);
  c.steps = ceil_div(w.total_steps, ceil_div(w.total_steps, c.steps));
  return c;
}

// Matrices cut into tiles, and which instructions use each of them.
WeightGradients plan_weights(const Code& code, int64_t groups) {
  WeightGradients w{};
  w.matrices = code.matrices;
  w.groups = groups;
  w.size = groups * code.grad_floats;
  for (int i = 0; i < code.matrices; ++i) {
    const Matrix& m = code.matrix[i];
    w.n[i] = m.n;
    w.k[i] = m.k;
    w.grad[i] = m.grad;
    w.first_tile[i + 1] = w.first_tile[i] + static_cast<int>(ceil_div(m.n, kGradientTile) *
                                                             ceil_div(m.k, kGradientTile));
  }
  return w;
}

// Enters where the instructions export to, in a launch over `rows` rows and `steps` steps.
void place_exports(int64_t rows, int64_t steps, bool once, Backward& b, WeightGradients& w) {
  int64_t at = 0;
  for (int i = 0; i < b.code.instructions; ++i) {
    const Instruction& s = b.code.instruction[i];
    if (static_cast<Op>(s.op) != Op::kLinear) continue;
    const int64_t slots = i < b.code.once ? rows : steps * rows;
    b.exports[i].input = at;
    at += b.data.groups * slots * export_width(s.k);
    b.exports[i].sums = at;
    at += b.data.groups * slots * export_width(s.width);
  }
  int uses = 0;
  for (int m = 0; m < b.code.matrices; ++m) {
    w.first_use[m] = uses;
    for (int i = once ? 0 : b.code.once; i < b.code.instructions; ++i) {
      const Instruction& s = b.code.instruction[i];
      if (static_cast<Op>(s.op) == Op::kLinear && s.matrix == m)
        w.use[uses++] = {b.exports[i].input, b.exports[i].sums,
                         i < b.code.once ? rows : steps * rows};
    }
  }
  w.first_use[b.code.matrices] = uses;
}

}  // namespace

std::string denoise_backward(const Context& context, const Code& code, Precision precision,
                             const Data& data, const double* solver, double out_low,
                             double out_high, const Gradients& gradients, int64_t workspace_bytes) {
  const int64_t groups = data.groups, steps = data.steps;
  const int64_t table_row = groups * code.table_width;  // of one step
  const auto sum = [&](const float* parts, int64_t count, int64_t size, bool add, float* out) {
    return failure("reduce", launch_reduce({parts, count, size, add, out}, context.stream));
  };
  std::string why;
  if (groups > 65535) return "more than 65535 groups don't fit a launch";
  if (data.batch == 0) {
    if (gradients.weights)
      why = sum(nullptr, 0, groups * code.grad_floats, false, gradients.weights);
    if (gradients.table && why.empty())
      why = sum(nullptr, 0, steps * table_row, false, gradients.table);
    return why;
  }

  const auto shared = [&](int rows) {
    return backward_fixed_bytes(precision, rows) +
           4 * backward_floats(code.ld, code.g_ld, code.x_width, rows);
  };
  const int64_t limit = context.device.shared_bytes;
  const bool many = ceil_div(data.batch, 8) * groups > context.device.multiprocessors;
  const bool scratch = shared(8) > limit;
  const int tile_rows = scratch ? kScratchRows : many && shared(16) <= limit ? 16 : 8;
  const int64_t shared_bytes =
      scratch ? backward_fixed_bytes(precision, tile_rows) : shared(tile_rows);
  const Workspace w{
      code,   groups, steps, tile_rows, gradients.weights != nullptr, gradients.table != nullptr,
      scratch};
  const Chunks chunks =
      cut(w, data.batch, context.device.multiprocessors, std::max<int64_t>(workspace_bytes / 4, 1));

  Backward b{};
  b.code = code;
  b.data = data;
  b.solver.out_low = out_low;
  b.solver.out_high = out_high;
  b.solver.total = solver ? static_cast<int>(steps) : 0;
  b.path = gradients.path;
  b.grad_out = gradients.grad_out;
  b.packed_t = gradients.packed_t;
  b.grad_x = gradients.x;
  b.grad_cond = gradients.cond;
  const auto floats = [&](int64_t n) {
    return n ? static_cast<float*>(context.allocate(4 * n)) : nullptr;
  };
  b.exported = floats(w.exported(chunks.rows, chunks.steps));
  b.table = floats(w.sums(chunks.rows, chunks.steps));
  b.scratch = floats(w.tiles(chunks.rows));
  b.kept = floats(w.kept(chunks.rows, chunks.steps));
  b.state = reinterpret_cast<double*>(floats(2 * w.state(chunks.rows, chunks.steps)));

  WeightGradients weights = plan_weights(code, groups);
  weights.exported = b.exported;
  weights.out = gradients.weights;
  // Few tiles: several blocks share the slots of one.
  const int64_t busy = 2 * context.device.multiprocessors;
  const int64_t blocks = std::max<int64_t>(weights.first_tile[code.matrices] * groups, 1);
  const int64_t stages = ceil_div(chunks.rows * chunks.steps, kGradientSlots);
  const int64_t room = workspace_bytes / (4 * std::max<int64_t>(weights.size, 1));
  weights.splits =
      static_cast<int>(std::max<int64_t>(std::min({busy / blocks, stages / 4, room}), 1));
  if (gradients.weights && weights.splits > 1) weights.out = floats(weights.splits * weights.size);

  for (b.row = 0; b.row < data.batch && why.empty(); b.row += b.rows) {
    b.rows = std::min(chunks.rows, data.batch - b.row);
    for (int64_t end = steps; end > 0 && why.empty(); end = b.solver.first) {
      const int64_t first = std::max<int64_t>(end - chunks.steps, 0), count = end - first;
      b.solver.first = static_cast<int>(first);
      b.solver.count = solver ? static_cast<int>(count) : 0;
      for (int s = 0; s < b.solver.count; ++s)
        std::copy_n(solver + (first + s) * kSolverColumns, kSolverColumns, b.solver.row[s]);
      if (b.exported) place_exports(b.rows, count, first == 0, b, weights);
      why = failure("denoise_backward",
                    launch_denoise_backward(b, precision, tile_rows, shared_bytes, context.stream));
      if (b.table && why.empty())
        why = sum(b.table, ceil_div(b.rows, tile_rows), count * table_row, b.row > 0,
                  gradients.table + first * table_row);
      if (gradients.weights && why.empty()) {
        weights.add = b.row > 0 || end < steps;
        why =
            failure("weight_gradient", launch_weight_gradients(weights, precision, context.stream));
      }
    }
  }
  if (weights.splits > 1 && gradients.weights && why.empty())
    why = sum(weights.out, weights.splits, weights.size, false, gradients.weights);
  return why;
}

}  // namespace cuda
}  // namespace dom2
