// What the backward kernels are given, and their launches. As exec.h and launch.h, which are the
// forward side.
#pragma once
#include "launch.h"

namespace dom2 {
namespace cuda {

// Where each linear instruction leaves what its weight gradient is made of, row by row: its input
// and the gradient of its sums. First floats of [G, slots, width], the width a multiple of four. A
// slot is a row in one step (step * rows + row), for instructions of the `once` phase a row.
struct Export {
  int64_t input, sums;
};
DOM2_HD constexpr int export_width(int width) { return (width + 3) / 4 * 4; }

// One launch goes through some rows of the batch and some steps of the loop, last step first.
struct Backward {
  Code code;
  Data data;
  Solver solver;
  const float* path;          // as in Gradients
  const float* grad_out;      // [G, B, x_width or out_width]
  const void* packed_t;       // [G, packets_t] of 16 bytes
  float *grad_x, *grad_cond;  // [G, B, width]; null: not wanted
  int64_t row, rows;          // first row of the batch, and how many
  float* exported;            // null: no gradient of weights is wanted
  Export exports[kMaxInstructions];
  float* table;  // [tiles, steps of this launch, G, table_width]: sums over a tile's rows, or null
  float* scratch;  // one tile's values and gradients per block where shared memory is too small
  // What launches of earlier steps go on from; null where one launch does all steps.
  double* state;  // [3, G, rows, x_width]: gradients of x, and of the two x0 before
  float* kept;    // [G, rows, once_columns + g_once_columns]
};

static_assert(sizeof(Backward) <= 32764, "a kernel takes no more parameters");

// A tile: gradients of x and two x0 in double, values, gradients of values.
DOM2_HD constexpr int64_t backward_floats(int ld, int g_ld, int x_width, int rows) {
  return int64_t{rows} * (ld + g_ld) + x_floats(x_width, rows);
}
// Beside it in shared memory: the ring, mean and scale of each row for layer norms.
constexpr int64_t backward_fixed_bytes(Precision p, int rows) {
  return ring_bytes(p, false) + int64_t{8} * rows;
}

// rows: of a tile, 8 or 16; with a scratch always kScratchRows.
constexpr int kScratchRows = 16;
int launch_denoise_backward(const Backward& b, Precision precision, int rows, int64_t shared_bytes,
                            void* stream);

// dW = sum over slots of sums^T input, for all matrices at once. `splits` blocks share the slots of
// a tile of 64 x 64, each with its own partial result.
constexpr int kGradientTile = 64, kGradientSlots = 32;

struct Use {  // of a matrix by an instruction
  int64_t input, sums, slots;
};

struct WeightGradients {
  Use use[kMaxInstructions];  // those of one matrix together
  int first_use[kMaxMatrices + 1], first_tile[kMaxMatrices + 1];
  int n[kMaxMatrices], k[kMaxMatrices];
  int64_t grad[kMaxMatrices];  // first float in one group's gradients
  int matrices, splits;
  int64_t groups, size;  // size: floats of all gradients
  bool add;              // to what earlier launches left
  const float* exported;
  float* out;  // [splits, one [G, n, k] block after the other]
};

int launch_weight_gradients(const WeightGradients& w, Precision precision, void* stream);

// out[i] = sum over parts, in order.
struct Reduce {
  const float* parts;  // [count, size]
  int64_t count, size;
  bool add;  // to what `out` holds
  float* out;
};

int launch_reduce(const Reduce& r, void* stream);

}  // namespace cuda
}  // namespace dom2
