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

// First column of each buffer when columns are reused as soon as no later instruction reads them.
std::vector<int> reuse_columns(const Program& p, const std::vector<const Instr*>& order, int once,
                               int* end) {
  const int n = static_cast<int>(order.size()), buffers = static_cast<int>(p.buffers.size());
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
  *end = columns.end();
  return column;
}

bool early(const Program& p, int buffer) {
  if (buffer == 1) return true;
  for (const Instr& i : p.instrs)
    if (i.out.buffer == buffer) return i.once;
  return false;
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

}  // namespace

Plan::Plan(const Program& p, bool backward) {
  int end = 0;
  const std::vector<const Instr*> order = ordered(p, &exec.once_n);
  std::vector<int> column(p.buffers.size(), -1), z(order.size(), -1);
  if (backward) {
    // What the `once` phase fills comes first, so that an executor can keep one copy for all steps.
    for (bool phase : {true, false}) {
      for (size_t b = 0; b < p.buffers.size(); ++b) {
        if (early(p, static_cast<int>(b)) != phase) continue;
        column[b] = end;
        end += pad(std::max(p.buffers[b], 1));
      }
      for (size_t i = 0; i < order.size(); ++i) {
        const Instr& in = *order[i];
        if (in.once != phase || in.op != Op::kLinear || in.act == Act::kNone) continue;
        z[i] = end;
        end += pad(in.out.width);
      }
      if (phase) exec.once_columns = end;
    }
  } else {
    column = reuse_columns(p, order, exec.once_n, &end);
    for (size_t b = 0; b < p.buffers.size(); ++b)
      if (column[b] >= 0 && early(p, static_cast<int>(b)))
        exec.once_columns = std::max(exec.once_columns, column[b] + pad(std::max(p.buffers[b], 1)));
  }
  const std::vector<int> gradient = gradient_columns(p, exec);

  const auto table_column = [&](int from, int width) {
    if (from < 0) return -1;
    table_from.push_back(from);
    table_to.push_back(exec.table_ld);
    table_width.push_back(width);
    exec.table_ld += pad(width);
    return table_to.back();
  };

  int bf16 = 0;
  for (size_t i = 0; i < p.n.size(); ++i) {
    Weight w{};
    w.n = p.n[i];
    w.k = p.k[i];
    w.k_pad = pad(w.k);
    w.packed = exec.packed_size;
    w.packed_t = exec.packed_t_size;
    w.grad = exec.grad_size;
    w.bf16 = exec.bf16_size;
    w.bf16_t = exec.bf16_t_size;
    exec.packed_size += static_cast<int64_t>(pad(w.n)) * w.k;
    exec.packed_t_size += static_cast<int64_t>(pad(w.k)) * w.n;
    exec.bf16_size += static_cast<int64_t>(pad(w.n)) * pairs(w.k);
    exec.bf16_t_size += static_cast<int64_t>(pad(w.k)) * pairs(w.n);
    exec.grad_size += static_cast<int64_t>(w.n) * w.k_pad;
    weights.push_back(w);
    // A row of the left operand; backward, a pair of rows of both operands of the weight's
    // gradient.
    bf16 = std::max(bf16, backward ? pad(w.n) + pad(w.k) : pad(pairs(w.k)));
  }

  // In reverse order: has a buffer's gradient been written yet, or must a contribution be added?
  std::vector<bool> written(p.buffers.size(), false);
  written[p.out.buffer] = true;
  const auto first = [&](const Slice& s) {
    if (!s) return 0;
    const bool whole = s.start == 0 && s.width == p.buffers[s.buffer];
    const bool set = !written[s.buffer] && whole && !early(p, s.buffer);
    if (!written[s.buffer] && !set && !early(p, s.buffer)) {
      zero.push_back(gradient[s.buffer]);
      zero.push_back(gradient[s.buffer] + pad(p.buffers[s.buffer]));
    }
    written[s.buffer] = true;
    return set ? 1 : 0;
  };
  if (!(p.out.start == 0 && p.out.width == p.buffers[p.out.buffer]) && !early(p, p.out.buffer)) {
    zero.push_back(gradient[p.out.buffer]);
    zero.push_back(gradient[p.out.buffer] + pad(p.buffers[p.out.buffer]));
  }

  instrs.resize(order.size());
  for (int at = static_cast<int>(order.size()) - 1; at >= 0; --at) {
    const Instr& i = *order[at];
    ExecInstr& s = instrs[at];
    s.op = static_cast<int>(i.op);
    s.act = static_cast<int>(i.act);
    s.width = i.out.width;
    s.k = i.a.width;
    s.out = column[i.out.buffer] + i.out.start;
    s.g_out = gradient[i.out.buffer] + i.out.start;
    s.a = column[i.a.buffer] + i.a.start;
    s.g_a = gradient[i.a.buffer] + i.a.start;
    s.b = i.b ? column[i.b.buffer] + i.b.start : -1;
    s.g_b = i.b ? gradient[i.b.buffer] + i.b.start : -1;
    s.c = i.c ? column[i.c.buffer] + i.c.start : -1;
    s.g_c = i.c ? gradient[i.c.buffer] + i.c.start : -1;
    s.weight = i.weight;
    s.site = i.site;
    s.value = static_cast<float>(i.value);
    s.drop_below = static_cast<int64_t>(std::nearbyint(i.value * 0x1p32));
    s.z = z[at];
    if (!written[i.out.buffer] && !early(p, i.out.buffer)) {  // nothing reads this value
      zero.push_back(gradient[i.out.buffer]);
      zero.push_back(gradient[i.out.buffer] + pad(p.buffers[i.out.buffer]));
      written[i.out.buffer] = true;
    }
    // The order in which backward adds: c, b, a (an operand may stand in two places).
    s.set_c = first(i.c);
    s.set_b = first(i.b);
    s.set_a = first(i.a);
    s.table = table_column(i.table, i.out.width);
    s.table2 = table_column(i.table2, i.out.width);
    s.table_from = i.table;
    s.table2_from = i.table2;
  }
  if (!written[0]) {  // a program that ignores x
    zero.push_back(gradient[0]);
    zero.push_back(gradient[0] + pad(p.buffers[0]));
  }
  exec.table_ld = std::max(exec.table_ld, kAlign);

  exec.instrs = instrs.data();
  exec.instrs_n = static_cast<int>(instrs.size());
  exec.weights = weights.data();
  exec.columns = end;
  exec.bf16 = end + kAlign;  // behind what vector loads may read past a slice's end
  exec.width = stride(exec.bf16 + bf16);
  exec.x = column[0];
  exec.cond = column[1];
  exec.out = column[p.out.buffer] + p.out.start;
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
