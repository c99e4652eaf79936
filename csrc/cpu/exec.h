// What a CPU executor is given and the table of its functions. Plain data, see ../core/exec.h.
#pragma once
#include "../core/exec.h"

namespace dom2 {
namespace cpu {

// One call's data. Groups are outermost, rows are contiguous.
struct Call {
  const Exec* exec;
  int64_t groups, batch, steps, repeat;  // repeat: rows of x that one condition vector serves
  const float* x;                        // [G, B, x_width], or null: drawn
  const float* cond;                     // [G, B / repeat, cond_width]
  bool bf16;                             // weights rounded to bf16, see docs/precision.md
  const float* packed;                   // [G, packed_size or bf16_size], see Kernels::pack
  const float* table;                    // [S, G, table_ld]
  const double* solver;  // [S, kSolverColumns], or null: one pass, whose result is clipped
  const float* noise;    // [S, G, B, x_width], or null: drawn
  uint64_t seed;
  uint32_t offset;
  double out_low, out_high;
  float* out;   // [G, B, x_width or out_width]
  float* path;  // [S + 1, G, B, x_width]: x before each step and after the last; may be null
};

// What backward adds. Pointers may be null where a gradient isn't wanted, but for grad_out and
// path.
struct BackwardCall {
  const float* path;      // what the forward call wrote; x where there is no solver
  const float* grad_out;  // [G, B, x_width or out_width]
  const float* packed_t;  // [G, packed_t_size or bf16_t_size]
  float* grad_x;          // [G, B, x_width]
  bool keeps_x;           // grad_x is null, but the tile's gradient of x will be read
  float* grad_cond;       // [G, B, cond_width]: the `repeat` rows of one condition vector sum to it
};

// What `conservative_loss` adds. Rows of x per condition vector, call.repeat of them: the data's
// action, then the proposed ones. Groups k, k + data_groups, ... of the program share the data of
// k.
struct ConservativeCall {
  int64_t data_groups;
  const float* act;       // [data groups, B, x_width]
  const float* proposed;  // [data groups, B, M, x_width]
  const float* target;    // [data groups, B]
  double weight, log_density;
  const float* log_densities;  // [data groups, B, M], on top of log_density; may be null
  float* q;                    // [G, B (1 + M)]
};

// What `chain_value` adds: the critic that rates the chain's result.
struct ChainCall {
  Call critic;            // one pass, of as many groups and rows; x is not read
  const float* packed_t;  // [G, packed_t_size], the critic's
  bool keep;              // scratch has room for the values of all steps; else they are recomputed
  float* q;               // [G, B]
  float* act;             // [G, B, A]: what the critic was asked of
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

// Scratch of one row of `chain_value`: values of the steps, gradients, x and two x0 (doubles) or
// their gradients, x of every step, the gradient of the noise; and the critic's values and
// gradients.
static inline int64_t chain_floats(const Call& call, const ChainCall& l) {
  const Exec &e = *call.exec, &c = *l.critic.exec;
  return (l.keep ? call.steps : 1) * e.width + e.g_width + (7 + call.steps) * c.x_width + c.width +
         c.g_width;
}

// Any strided [n, k] matrix of floats.
struct Matrix {
  const float* data;
  int64_t row, col;  // strides in floats
};

struct Kernels {
  const char* name;
  int row_block;  // rows that one register tile holds
  // Packs a matrix [n, k] into panels: [k][w] floats each, w = 64 columns of the output (the last
  // panel the rest, padded to 16 with zeros). bf16: words of two bf16 numbers, [pairs(k)][w], the
  // one with the even k in the lower half.
  void (*pack)(const Matrix&, int n, int k, bool bf16, float* out);
  // Runs rows [row, row + count) of one group; scratch holds count * width floats, 64-byte aligned.
  void (*forward)(const Call&, int64_t group, int64_t row, int count, float* scratch);
  // scratch: count * (width + g_width) floats and 4 * count * x_width doubles behind them.
  void (*backward)(const Call&, const BackwardCall&, const Partial&, int64_t group, int64_t row,
                   int count, float* scratch);
  // Losses with their gradients, see losses.inl; scratch and partial sums as for backward. packed_t
  // null: no gradients. grad_out is not read. What the rows add to the sums goes to `sums`:
  // squares, [1]; td and cql, [2].
  void (*denoising_loss)(const Call&, const BackwardCall&, const Partial&, const float* target,
                         int64_t group, int64_t row, int count, float* scratch, double* sums);
  void (*conservative_loss)(const Call&, const BackwardCall&, const Partial&,
                            const ConservativeCall&, int64_t group, int64_t row, int count,
                            float* scratch, double* sums);
  // Q of the chain's result: adds up Q, [1]. scratch holds count rows of chain_floats.
  void (*chain_value)(const Call&, const BackwardCall&, const Partial&, const ChainCall&,
                      int64_t group, int64_t row, int count, float* scratch, double* sums);
  // Draws rows [row, row + count) of one group's batch and gathers all its fields.
  void (*sample)(const SampleCall&, int64_t group, int64_t row, int64_t count);
};

// Columns of a packed panel; every matrix is stored as panels of up to this many columns.
constexpr int kPanel = 64;

}  // namespace cpu
}  // namespace dom2
