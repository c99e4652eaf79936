// What a CPU executor is given: plain data, no std:: types, so that the files compiled for one
// instruction set include nothing that the linker could merge into common code. `plan.h` fills it.
#pragma once
#include <stdint.h>

namespace dom2 {
namespace cpu {

// One instruction with buffers resolved to columns of a row's scratch memory (-1: no operand).
struct Step {
  int op, act;
  int width, k;              // columns out; columns of a
  int out, a, b, c;          // value columns
  int z;                     // where backward keeps the pre-activation
  int g_out, g_a, g_b, g_c;  // gradient columns
  // 1: this is the first contribution (in reverse order) to a whole buffer, so store, don't add.
  int set_a, set_b, set_c;
  int table, table2;  // padded table columns
  int weight, site;
  float value;         // LayerNorm: eps; dropout: probability of zero
  int64_t drop_below;  // dropout: random words below this are dropped
};

struct Weight {
  int n, k;
  int64_t packed;    // first float in one group's packed weights (forward)
  int64_t packed_t;  // the same for the transpose (backward)
  int64_t grad;      // first float in one group's gradient accumulators, rows padded to `k_pad`
  int k_pad;
};

// Everything that is fixed by the program.
struct Exec {
  const Step* steps;  // `once` steps first
  int steps_n, once_n;
  const Weight* weights;
  int64_t packed_size, packed_t_size, grad_size;  // floats per group
  int width;                                      // row stride of the value scratch, floats
  int g_width;                                    // row stride of the gradient scratch
  int x, rows, out;                               // value columns
  int g_x, g_rows, g_out;  // gradient columns; g_rows -1: nothing reads the row vector
  int x_width, rows_width, out_width;
  int table_ld;  // padded table row
  int sites;
  int g_once_end;   // gradient columns before this one collect over the steps
  const int* zero;  // pairs [begin, end) of gradient columns to clear in every step
  int zero_n;
};

// One call's data. Groups are outermost, rows are contiguous.
struct Call {
  const Exec* exec;
  int64_t groups, batch, steps, repeat;  // repeat: rows of x that one row vector serves
  const float* x;                        // [G, B, x_width], or null: drawn
  const float* rows;                     // [G, B / repeat, rows_width]
  const float* packed;                   // [G, packed_size]
  const float* table;                    // [S, G, table_ld]
  const double* solver;                  // [S, 8], or null: one pass without a solver
  const float* noise;                    // [S, G, B, x_width], or null: drawn
  uint64_t seed;
  uint32_t offset;
  double out_low, out_high;
  float* out;   // [G, B, x_width or out_width]
  float* path;  // [S, G, B, x_width]: x before each step; may be null
};

// What backward adds. Pointers may be null where a gradient isn't wanted, but for grad_out and
// path.
struct BackwardCall {
  const float* grad_out;  // [G, B, x_width or out_width]
  const float* packed_t;  // [G, packed_t_size]
  float* grad_x;          // [G, B, x_width]
  float* grad_rows;       // [G, B, rows_width], not yet summed over `repeat`
};

// Sums over rows that one thread collects; added up in order afterwards.
struct Partial {
  float* weights;  // [G, grad_size]; null if not wanted
  float* table;    // [S, G, table_ld]; null if not wanted
};

// One field of one agent: a table of rows of `width` numbers, `row` numbers apart.
struct Field {
  const void* data;
  int64_t row, width;
  bool is_double;  // else float
  float* out;      // [batch, width]
};

struct SampleCall {
  int64_t groups, batch, fields;     // fields of each group
  const Field* field;                // [fields, groups]
  const int64_t *threshold, *alias;  // [groups, trajectories]
  const int64_t* starts;             // [trajectories + 1]
  int64_t trajectories;
  uint64_t seed;
  uint32_t offset;
  int64_t* index;  // [groups, batch]
};

struct Kernels {
  const char* name;
  int row_block;  // rows that one register tile holds
  // Runs rows [row, row + count) of one group; scratch holds count * width floats, 64-byte aligned.
  void (*forward)(const Call&, int64_t group, int64_t row, int count, float* scratch);
  // scratch: count * (width + g_width) floats and 6 * count * x_width doubles behind them.
  void (*backward)(const Call&, const BackwardCall&, const Partial&, int64_t group, int64_t row,
                   int count, float* scratch);
  // Draws rows [row, row + count) of one group's batch and gathers all its fields.
  void (*sample)(const SampleCall&, int64_t group, int64_t row, int64_t count);
};

// Columns of a packed panel; every matrix is stored as panels of up to this many columns.
constexpr int kPanel = 64;
constexpr int kAlign = 16;  // columns are padded to this many floats

// `static`: a kernel file must not export a function that the linker could use elsewhere.
static constexpr int pad(int n) { return (n + kAlign - 1) / kAlign * kAlign; }

}  // namespace cpu
}  // namespace dom2
