// The step program as the executors see it: decoding and checking of the words that
// dom2_fast/ops/program.py writes. Host only, torch-free. What a program means is defined in
// dom2_fast/ops/reference.py.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "opcodes.h"

namespace dom2 {

// Columns [start, start + width) of a buffer; buffer -1 stands for "no operand".
struct Slice {
  int buffer = -1, start = 0, width = 0;
  explicit operator bool() const { return buffer >= 0; }
};

struct Instr {
  Op op;
  Slice out, a, b, c;
  int table, table2, weight;
  Act act;
  int site;
  double value;
  bool once;
};

struct Program {
  std::vector<int> buffers;  // widths; 0 is x, 1 the condition vector
  std::vector<int> n, k;     // shape of each weight matrix
  std::vector<Instr> instrs;
  Slice out;
  int table_width = 0, sites = 0;
};

namespace detail {

inline std::string check_slice(const Program& p, const Slice& s, const std::vector<int>& filled,
                               const char* what, int at) {
  if (s.buffer < 0 || s.buffer >= static_cast<int>(p.buffers.size()) || s.start < 0 ||
      s.width < 1 || s.start > p.buffers[s.buffer] - s.width)
    return std::string(what) + " of instruction " + std::to_string(at) + " leaves its buffer";
  if (filled[s.buffer] < s.start + s.width)
    return std::string(what) + " of instruction " + std::to_string(at) + " is read before written";
  return {};
}

inline std::string check_instr(const Program& p, const Instr& i, std::vector<int>& filled, int at) {
  const std::string name = "instruction " + std::to_string(at);
  std::string why = check_slice(p, i.a, filled, "input", at);
  if (why.empty() && i.b) why = check_slice(p, i.b, filled, "second operand", at);
  if (why.empty() && i.c) why = check_slice(p, i.c, filled, "third operand", at);
  if (!why.empty()) return why;
  const int n = i.out.width, last = static_cast<int>(p.buffers.size()) - 1;
  if (i.out.buffer < 2 || i.out.buffer > last || n < 1 || i.out.start < 0 ||
      i.out.start > p.buffers[i.out.buffer] - n || i.out.start != filled[i.out.buffer])
    return name + " writes outside its buffer or twice";
  if (i.op != Op::kCopy && n != p.buffers[i.out.buffer]) return name + " writes half a buffer";
  for (int t : {i.table, i.table2})
    if (t < -1 || (t >= 0 && t > p.table_width - n)) return name + " reads beyond the table";
  if (i.op == Op::kLinear) {
    if (i.weight < 0 || i.weight >= static_cast<int>(p.n.size()) || p.n[i.weight] != n ||
        p.k[i.weight] != i.a.width)
      return name + " doesn't fit its weight";
  } else if (i.a.width != n) {
    return name + " has an input of another width";
  }
  if ((i.op == Op::kAdd || i.op == Op::kMul) && static_cast<bool>(i.b) == (i.table >= 0))
    return name + " needs one second operand";
  if (i.op == Op::kDropout && (!(i.value >= 0 && i.value < 1) || i.site < 0 || i.site >= p.sites))
    return name + " has a probability outside [0, 1) or an unknown site";
  filled[i.out.buffer] = i.out.start + n;
  return {};
}

}  // namespace detail

// Fills `p` from `words`; returns an empty string, or what is wrong. A decoded program can't make
// an executor read or write outside the memory it is given.
inline std::string decode(const int64_t* w, int64_t count, Program& p) {
  constexpr int kVersion = 1, kHeader = 12, kWords = 18, kMaxWidth = 1 << 20;
  constexpr int64_t kMaxColumns = int64_t{1} << 24;  // of all buffers: executors count in int
  if (count < kHeader || w[0] != kVersion) return "not a step program of version 1";
  for (int i = 1; i < kHeader; ++i)
    if (w[i] < -1 || w[i] > (int64_t{1} << 30)) return "header word out of range";
  const int64_t instrs = w[1], buffers = w[2], weights = w[3];
  if (buffers < 2 || instrs < 0 || weights < 0 || w[6] < 0 ||
      count != kHeader + buffers + 2 * weights + instrs * kWords)
    return "length does not match its header";
  const int64_t* at = w + kHeader;
  int64_t columns = 0;
  for (int64_t i = 0; i < buffers; ++i, ++at) {
    if (*at < (i < 2 ? 0 : 1) || *at > kMaxWidth) return "buffer width out of range";
    columns += *at;
    if (columns > kMaxColumns) return "its buffers are too wide together";
    p.buffers.push_back(static_cast<int>(*at));
  }
  for (int64_t i = 0; i < weights; ++i, at += 2) {
    if (at[0] < 1 || at[0] > kMaxWidth || at[1] < 1 || at[1] > kMaxWidth)
      return "weight shape out of range";
    p.n.push_back(static_cast<int>(at[0]));
    p.k.push_back(static_cast<int>(at[1]));
  }
  p.table_width = static_cast<int>(w[6]);
  p.sites = static_cast<int>(w[10]);
  std::vector<int> filled(buffers, 0);  // columns written so far
  filled[0] = p.buffers[0];
  filled[1] = p.buffers[1];
  for (int64_t i = 0; i < instrs; ++i, at += kWords) {
    for (int j = 0; j < kWords; ++j)
      if (j != 16 && (at[j] < -1 || at[j] > (int64_t{1} << 30))) return "word out of range";
    const auto v = [&](int j) { return static_cast<int>(at[j]); };
    if (v(0) < 0 || v(0) >= kOps || v(14) < 0 || v(14) >= kActs) return "unknown op or activation";
    Instr in{};
    in.op = static_cast<Op>(v(0));
    in.out = {v(1), v(2), v(3)};
    in.a = {v(4), v(5), v(6)};
    in.b = {v(7), v(8), v(3)};
    in.c = {v(9), v(10), v(3)};
    in.table = v(11);
    in.table2 = v(12);
    in.weight = v(13);
    in.act = static_cast<Act>(v(14));
    in.site = v(15);
    std::memcpy(&in.value, &at[16], sizeof in.value);
    in.once = v(17) == 1;
    std::string why = detail::check_instr(p, in, filled, static_cast<int>(i));
    if (!why.empty()) return why;
    p.instrs.push_back(in);
  }
  p.out = {static_cast<int>(w[7]), static_cast<int>(w[8]), static_cast<int>(w[9])};
  std::string why = detail::check_slice(p, p.out, filled, "result", static_cast<int>(instrs));
  if (!why.empty()) return why;
  // `once` instructions run first, so they may read only the condition vector and each other.
  std::vector<bool> early(buffers, false);
  early[1] = true;
  for (const Instr& in : p.instrs) {
    if (!in.once) continue;
    if (in.op == Op::kDropout) return "a dropout is marked `once`; masks are drawn in every step";
    for (const Slice& s : {in.a, in.b, in.c})
      if (s && !early[s.buffer]) return "an instruction marked `once` reads a value of the steps";
    early[in.out.buffer] = true;
  }
  return {};
}

}  // namespace dom2
