// What a CPU executor is given and the table of its functions. Plain data, see ../core/exec.h.
#pragma once
#include "../core/exec.h"

namespace dom2 {
namespace cpu {

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
  float* grad_rows;       // [G, B, rows_width]: the `repeat` rows of one row vector sum to it
};

// What `conservative_loss` adds. Rows of x per row vector, call.repeat of them: the data's action,
// then the proposed ones. Groups k, k + data_groups, ... of the program share the data of k.
struct ConservativeCall {
  int64_t data_groups;
  const float* act;       // [data groups, B, x_width]
  const float* proposed;  // [data groups, B, M, x_width]
  const float* target;    // [data groups, B]
  double weight, log_density;
  float* q;  // [G, B (1 + M)]
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
  // Losses with their gradients, see losses.inl; scratch and partial sums as for backward. packed_t
  // null: no gradients. grad_out is not read. What the rows add to the sums goes to `sums`:
  // squares, [1]; td and cql, [2].
  void (*squared)(const Call&, const BackwardCall&, const Partial&, const float* target,
                  int64_t group, int64_t row, int count, float* scratch, double* sums);
  void (*conservative)(const Call&, const BackwardCall&, const Partial&, const ConservativeCall&,
                       int64_t group, int64_t row, int count, float* scratch, double* sums);
  // Draws rows [row, row + count) of one group's batch and gathers all its fields.
  void (*sample)(const SampleCall&, int64_t group, int64_t row, int64_t count);
};

// Columns of a packed panel; every matrix is stored as panels of up to this many columns.
constexpr int kPanel = 64;

}  // namespace cpu
}  // namespace dom2
