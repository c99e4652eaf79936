#include "plan.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace dom2 {
namespace {

// Hands out column ranges; freed ones are used again, lowest first.
class Columns {
 public:
  int take(int width) {
    width = pad(std::max(width, 1));
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < width) continue;
      const int at = it->first, left = it->second - width;
      free_.erase(it);
      if (left > 0) free_[at + width] = left;
      return at;
    }
    end_ += width;
    return end_ - width;
  }
  void give(int at, int width) {
    width = pad(std::max(width, 1));
    auto next = free_.lower_bound(at);
    if (next != free_.end() && at + width == next->first) {
      width += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second == at) {
        before->second += width;
        return;
      }
    }
    free_[at] = width;
  }
  int end() const { return end_; }

 private:
  std::map<int, int> free_;
  int end_ = 0;
};

// A row stride that is no multiple of 1 KiB: rows would share few cache sets otherwise.
int stride(int columns) {
  int width = columns + kAlign;  // vector loads may read past a slice's end
  if (width % 256 == 0) width += kAlign;
  return width;
}

// The instructions in execution order, `once` first.
std::vector<const Instr*> ordered(const Program& p, int* once) {
  std::vector<const Instr*> out;
  for (bool phase : {true, false})
    for (const Instr& i : p.instrs)
      if (i.once == phase) out.push_back(&i);
  *once = static_cast<int>(
      std::count_if(p.instrs.begin(), p.instrs.end(), [](const Instr& i) { return i.once; }));
  return out;
}

bool early(const Program& p, int buffer) {
  if (buffer == 1) return true;
  for (const Instr& i : p.instrs)
    if (i.out.buffer == buffer) return i.once;
  return false;
}

// Where values lie: the first column of each buffer, of each instruction's pre-activation (-1:
// none), and the end of all of them.
struct Values {
  std::vector<int> column, z;
  int end = 0;
};

// Every value and pre-activation has columns of its own. What the `once` phase fills comes first,
// so that an executor can keep one copy for all steps.
Values all_columns(const Program& p, const std::vector<const Instr*>& order, Exec& e) {
  Values out{std::vector<int>(p.buffers.size(), -1), std::vector<int>(order.size(), -1)};
  for (bool phase : {true, false}) {
    for (size_t b = 0; b < p.buffers.size(); ++b) {
      if (early(p, static_cast<int>(b)) != phase) continue;
      out.column[b] = out.end;
      out.end += pad(std::max(p.buffers[b], 1));
    }
    for (size_t i = 0; i < order.size(); ++i) {
      const Instr& in = *order[i];
      if (in.once != phase || in.op != Op::kLinear || in.act == Act::kNone) continue;
      out.z[i] = out.end;
      out.end += pad(in.out.width);
    }
    if (phase) e.once_columns = out.end;
  }
  return out;
}

// Columns are reused as soon as no later instruction reads them; no pre-activation is kept.
Values reused_columns(const Program& p, const std::vector<const Instr*>& order, Exec& e) {
  const int n = static_cast<int>(order.size()), buffers = static_cast<int>(p.buffers.size());
  const int once = e.once_n;
  std::vector<int> last(buffers, -1), column(buffers, -1);
  for (int i = 0; i < n; ++i) {
    last[order[i]->out.buffer] = i;
    for (const Slice& s : {order[i]->a, order[i]->b, order[i]->c})
      if (s) last[s.buffer] = i;
  }
  for (int i = 0; i < once; ++i)  // values of the first phase that the steps read live on
    if (last[order[i]->out.buffer] >= once) last[order[i]->out.buffer] = n;
  if (last[1] >= once) last[1] = n;
  last[0] = last[p.out.buffer] = n;
  Columns columns;
  column[0] = columns.take(p.buffers[0]);
  column[1] = columns.take(p.buffers[1]);
  for (int i = 0; i < n; ++i) {
    const int out = order[i]->out.buffer;
    if (column[out] < 0) column[out] = columns.take(p.buffers[out]);
    for (int b = 0; b < buffers; ++b)
      if (column[b] >= 0 && last[b] == i) columns.give(column[b], p.buffers[b]);
  }
  for (int b = 0; b < buffers; ++b)
    if (column[b] >= 0 && early(p, b))
      e.once_columns = std::max(e.once_columns, column[b] + pad(std::max(p.buffers[b], 1)));
  return {std::move(column), std::vector<int>(order.size(), -1), columns.end()};
}

// Gradient columns: buffers that live through all steps first, so that they can be kept together.
std::vector<int> gradient_columns(const Program& p, Exec& e) {
  std::vector<int> column(p.buffers.size(), -1);
  int at = 0;
  for (bool phase : {true, false}) {
    for (size_t b = 0; b < p.buffers.size(); ++b) {
      if (early(p, static_cast<int>(b)) != phase) continue;
      column[b] = at;
      at += pad(std::max(p.buffers[b], 1));
    }
    if (phase) e.g_once_end = at;
  }
  e.g_width = stride(at);
  return column;
}

// Where each packed weight and its gradient start. Returns the columns that a product's operands
// take as bf16: a row of the left one; backward, a pair of rows of both of the weight's gradient.
int place_weights(const Program& p, bool backward, Plan& plan) {
  Exec& e = plan.exec;
  int columns = 0;
  for (size_t i = 0; i < p.n.size(); ++i) {
    Weight w{};
    w.n = p.n[i];
    w.k = p.k[i];
    w.k_pad = pad(w.k);
    w.packed = e.packed_size;
    w.packed_t = e.packed_t_size;
    w.grad = e.grad_size;
    w.bf16 = e.bf16_size;
    w.bf16_t = e.bf16_t_size;
    e.packed_size += packed_floats(w.n, w.k, false);
    e.packed_t_size += packed_floats(w.k, w.n, false);
    e.bf16_size += packed_floats(w.n, w.k, true);
    e.bf16_t_size += packed_floats(w.k, w.n, true);
    e.grad_size += static_cast<int64_t>(w.n) * w.k_pad;
    plan.weights.push_back(w);
    columns = std::max(columns, backward ? pad(w.n) + pad(w.k) : pad(pairs(w.k)));
  }
  return columns;
}

// Going through the instructions in reverse: has a buffer's gradient been written yet, or must a
// contribution be added? Lists the gradients that nothing writes first, which must be cleared.
class Contributions {
 public:
  Contributions(const Program& p, const std::vector<int>& gradient, std::vector<int>& zero)
      : p_(p), gradient_(gradient), zero_(zero), written_(p.buffers.size(), false) {
    if (!whole(p.out) && !early(p, p.out.buffer)) clear(p.out.buffer);
    written_[p.out.buffer] = true;
  }

  // Before an instruction runs backwards: the gradient of its result, which nothing may have read.
  void result(int buffer) {
    if (written_[buffer] || early(p_, buffer)) return;
    clear(buffer);
    written_[buffer] = true;
  }

  // Whether a contribution to `s` is to be stored (1) or added (0).
  int first(const Slice& s) {
    if (!s) return 0;
    const bool set = !written_[s.buffer] && whole(s) && !early(p_, s.buffer);
    if (!written_[s.buffer] && !set && !early(p_, s.buffer)) clear(s.buffer);
    written_[s.buffer] = true;
    return set ? 1 : 0;
  }

  // A program may ignore x.
  void end() {
    if (!written_[0]) clear(0);
  }

 private:
  bool whole(const Slice& s) const { return s.start == 0 && s.width == p_.buffers[s.buffer]; }
  void clear(int buffer) {
    zero_.push_back(gradient_[buffer]);
    zero_.push_back(gradient_[buffer] + pad(p_.buffers[buffer]));
  }

  const Program& p_;
  const std::vector<int>& gradient_;
  std::vector<int>& zero_;
  std::vector<bool> written_;
};

// Padded columns for columns [from, from + width) of the caller's table.
int table_column(int from, int width, Plan& plan) {
  if (from < 0) return -1;
  plan.table_from.push_back(from);
  plan.table_to.push_back(plan.exec.table_ld);
  plan.table_width.push_back(width);
  plan.exec.table_ld += pad(width);
  return plan.table_to.back();
}

void place_instrs(const Program& p, const std::vector<const Instr*>& order, const Values& values,
                  const std::vector<int>& gradient, Plan& plan) {
  const auto column = [&](const Slice& s) { return s ? values.column[s.buffer] + s.start : -1; };
  const auto of_gradient = [&](const Slice& s) { return s ? gradient[s.buffer] + s.start : -1; };
  Contributions to(p, gradient, plan.zero);
  plan.instrs.resize(order.size());
  for (int at = static_cast<int>(order.size()) - 1; at >= 0; --at) {
    const Instr& i = *order[at];
    ExecInstr& s = plan.instrs[at];
    s.op = static_cast<int>(i.op);
    s.act = static_cast<int>(i.act);
    s.width = i.out.width;
    s.k = i.a.width;
    s.out = column(i.out);
    s.a = column(i.a);
    s.b = column(i.b);
    s.c = column(i.c);
    s.g_out = of_gradient(i.out);
    s.g_a = of_gradient(i.a);
    s.g_b = of_gradient(i.b);
    s.g_c = of_gradient(i.c);
    s.weight = i.weight;
    s.site = i.site;
    s.value = static_cast<float>(i.value);
    // Of dropout alone: other instructions may have a value of any size there.
    s.drop_below =
        i.op == Op::kDropout ? static_cast<int64_t>(std::nearbyint(i.value * 0x1p32)) : 0;
    s.z = values.z[at];
    to.result(i.out.buffer);
    // The order in which backward adds: c, b, a (an operand may stand in two places).
    s.set_c = to.first(i.c);
    s.set_b = to.first(i.b);
    s.set_a = to.first(i.a);
    s.table = table_column(i.table, i.out.width, plan);
    s.table2 = table_column(i.table2, i.out.width, plan);
    s.table_from = i.table;
    s.table2_from = i.table2;
  }
  to.end();
  plan.exec.table_ld = std::max(plan.exec.table_ld, kAlign);
}

}  // namespace

Plan::Plan(const Program& p, bool backward) {
  const std::vector<const Instr*> order = ordered(p, &exec.once_n);
  const Values values = backward ? all_columns(p, order, exec) : reused_columns(p, order, exec);
  const std::vector<int> gradient = gradient_columns(p, exec);
  const int bf16_columns = place_weights(p, backward, *this);
  place_instrs(p, order, values, gradient, *this);

  exec.instrs = instrs.data();
  exec.instrs_n = static_cast<int>(instrs.size());
  exec.weights = weights.data();
  exec.columns = values.end;
  exec.bf16 = values.end + kAlign;  // behind what vector loads may read past a slice's end
  exec.width = stride(exec.bf16 + bf16_columns);
  exec.x = values.column[0];
  exec.cond = values.column[1];
  exec.out = values.column[p.out.buffer] + p.out.start;
  exec.g_x = gradient[0];
  exec.g_cond = gradient[1];
  exec.g_out = gradient[p.out.buffer] + p.out.start;
  exec.x_width = p.buffers[0];
  exec.cond_width = p.buffers[1];
  exec.out_width = p.out.width;
  exec.sites = p.sites;
  exec.zero = zero.data();
  exec.zero_n = static_cast<int>(zero.size());
}

}  // namespace dom2
