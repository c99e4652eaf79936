// What the CUDA executors are given: plain data that travels as a kernel's parameters, by value, so
// that a launch copies nothing else, needs no memory of its own and can be captured in a CUDA
// graph.
#pragma once
#include <stdint.h>

#include "../core/host_device.h"
#include "../core/opcodes.h"

namespace dom2 {
namespace cuda {

enum class Precision : int { kFp32, kBf16 };  // of the matrix products; all else is float32

constexpr int kThreads = 256, kWarp = 32, kWarps = kThreads / kWarp;
constexpr int kMaxInstructions = 160, kMaxMatrices = 64, kMaxZeros = 64;
// Rows of the solver table that one launch takes; longer loops are cut into several launches.
constexpr int kMaxSolverRows = 64;

// Weights are stored in packets of 16 bytes, one per lane: what a lane multiplies next lies in one
// load. A tile is `features` wide and a packet `depth` deep; a warp computes `tiles` at once.
struct Packing {
  int features, depth, tiles;
};
DOM2_HD constexpr Packing packing(Precision p) {
  return p == Precision::kBf16 ? Packing{16, 16, 2} : Packing{32, 4, 1};
}
// Packets of one packed matrix [n, k].
DOM2_HD constexpr int64_t packets(int n, int k, Precision p) {
  const Packing form = packing(p);
  const int64_t tiles = (n + form.features - 1) / form.features;
  return tiles * ((k + form.depth - 1) / form.depth) * kWarp;
}

// The ring of packets through which weights stream (gemm.h). With resident weights it is short:
// only the instructions before the first step use it.
DOM2_HD constexpr int ring_stages(Precision p, bool resident) {
  return resident ? 2 : p == Precision::kBf16 ? 4 : 8;
}
DOM2_HD constexpr int64_t ring_bytes(Precision p, bool resident) {
  return int64_t{16} * ring_stages(p, resident) * packing(p).tiles * kThreads;
}

// A tile of rows: x and two x0 of the solver in double, then the values.
DOM2_HD constexpr int64_t x_floats(int x_width, int rows) { return int64_t{6} * rows * x_width; }
DOM2_HD constexpr int64_t tile_floats(int ld, int x_width, int rows) {
  return int64_t{rows} * ld + x_floats(x_width, rows);
}

// One matrix of up to this size, in bf16, can stay in registers: 128 of each thread.
constexpr int kHeldTiles = 16, kHeldPackets = 16;

// Where a matrix is while a block runs.
enum class Place : int { kStreamed, kShared, kRegisters };

struct Matrix {
  int n, k;                // features, depth of the product
  int tiles, packets;      // of the padded matrix; lane l of packet q of tile t is number
                           // (t * packets + q) * 32 + l
  int64_t first;           // its first packet in a group's packed weights
  int tiles_t, packets_t;  // the same of the transpose, for backward
  int64_t first_t;
  int64_t grad;  // first float of its gradient in a group's [n, k] accumulators
  Place place;
  int shared;  // kShared: first packet in the block's resident weights
};

// One instruction. Columns are those of a row's values or gradients, -1: no operand.
struct Instruction {
  uint8_t op, act;
  uint8_t set_a, set_b, set_c;  // backward: the first contribution, store instead of add
  int16_t matrix, site;
  int width, k;
  int out, a, b, c, z;
  int g_out, g_a, g_b, g_c;
  int table, table2;  // columns of the caller's table
  float value;
  uint64_t drop_below;
};

// A step program, laid out.
struct Code {
  Instruction instruction[kMaxInstructions];
  Matrix matrix[kMaxMatrices];
  int instructions, once, matrices;  // the first `once` instructions run before the first step
  int ld, g_ld;                      // row strides of values and gradients, floats
  // Backward only: columns before these belong to the `once` phase; ranges to clear in every step.
  int once_columns, g_once_columns;
  int zeros, zero[2 * kMaxZeros];
  int x, cond, out;
  int g_x, g_cond, g_out;
  int x_width, cond_width, out_width, table_width, sites;
  int64_t packets, packets_t;  // of one group's weights
  int64_t grad_floats;         // of one group's weight gradients
};

// The tensors of one call, contiguous, on the device.
struct Data {
  int64_t groups, batch, steps, repeat;  // repeat: rows of x that one condition vector serves
  const float* x;                        // [G, B, x_width], or null: drawn
  const float* cond;                     // [G, B / repeat, cond_width], or null
  const void* packed;                    // [G, packets] of 16 bytes
  const float* table;                    // [S, G, table_width]
  const float* noise;                    // [S, G, B, x_width], or null: drawn
  const int64_t* rng;                    // (seed, offset) on the device, or null: the next two
  uint64_t seed;
  uint32_t offset;
  float* out;   // [G, B, x_width or out_width]
  float* path;  // [S + 1, G, B, x_width]: x before each step and after the last; may be null
};

// Rows [first, first + count) of the solver table.
struct Solver {
  double row[kMaxSolverRows][kSolverColumns];
  int first, count, total;  // count 0: no solver, one pass
  double out_low, out_high;
};

struct Forward {
  Code code;
  Data data;
  Solver solver;
  int tiles;       // row tiles of each group
  int resident;    // packets of weights that stay in shared memory
  float* scratch;  // values, where shared memory is too small: one tile per block; else null
  double* state;   // [3, G, B, x_width]: x and two x0 between launches of a long loop; or null
};

}  // namespace cuda
}  // namespace dom2
