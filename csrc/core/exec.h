// A step program laid out for the executors: plain data, no std:: types, so that files compiled for
// one instruction set, or for a GPU, include nothing that a linker could merge into common code.
// `plan.h` fills it.
#pragma once
#include <stdint.h>

namespace dom2 {

// One instruction with buffers resolved to columns of a row's scratch memory (-1: no operand).
struct ExecInstr {
  int op, act;
  int width, k;              // columns out; columns of a
  int out, a, b, c;          // value columns
  int z;                     // where backward keeps the pre-activation
  int g_out, g_a, g_b, g_c;  // gradient columns
  // 1: this is the first contribution (in reverse order) to a whole buffer, so store, don't add.
  int set_a, set_b, set_c;
  int table, table2;            // padded table columns
  int table_from, table2_from;  // the same in the caller's table
  int weight, site;
  float value;         // LayerNorm: eps; dropout: probability of zero
  int64_t drop_below;  // dropout: random words below this are dropped
};

struct Weight {
  int n, k;
  int64_t packed;        // first float in one group's packed weights (forward)
  int64_t packed_t;      // the same for the transpose (backward)
  int64_t bf16, bf16_t;  // both, in words, where two bf16 weights share one
  int64_t grad;          // first float in one group's gradient accumulators, rows padded to `k_pad`
  int k_pad;
};

// Everything that is fixed by the program.
struct Exec {
  const ExecInstr* instrs;  // those of the `once` phase first
  int instrs_n, once_n;
  const Weight* weights;
  int64_t packed_size, packed_t_size, grad_size;  // floats per group
  int64_t bf16_size, bf16_t_size;                 // words per group
  int width;                                      // row stride of the value scratch, floats
  int columns, once_columns;  // columns in use; those of the `once` phase, from `cond` on, end here
  int g_width;                // row stride of the gradient scratch
  int x, cond, out;           // value columns
  int bf16;                   // value columns from here on hold a product's operands as bf16
  int g_x, g_cond, g_out;     // gradient columns; g_cond -1: nothing reads the condition vector
  int x_width, cond_width, out_width;
  int table_ld;  // padded table row
  int sites;
  int g_once_end;   // gradient columns before this one collect over the steps
  const int* zero;  // pairs [begin, end) of gradient columns to clear in every step
  int zero_n;
};

constexpr int kAlign = 16;  // columns are padded to this many floats

// `static`: a kernel file must not export a function that the linker could use elsewhere.
static constexpr int pad(int n) { return (n + kAlign - 1) / kAlign * kAlign; }
// Words that hold n bf16 numbers, two each.
static constexpr int pairs(int n) { return (n + 1) / 2; }
// Floats, or words of two bf16 numbers, of one packed matrix [n, k].
static constexpr int64_t packed_floats(int n, int k, bool bf16) {
  return int64_t{pad(n)} * (bf16 ? pairs(k) : k);
}

}  // namespace dom2
