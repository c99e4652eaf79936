// Lays a step program out for the CPU executors: which column of a row's scratch memory each buffer
// gets, where gradients go, where each packed weight starts. Torch-free.
#pragma once
#include <vector>

#include "../core/program.h"
#include "exec.h"

namespace dom2 {
namespace cpu {

struct Plan {
  Exec exec{};
  std::vector<Step> steps;
  std::vector<Weight> weights;
  std::vector<int> zero;
  std::vector<int> table_from, table_to, table_width;  // column ranges to copy into padded rows

  // `backward` keeps every value and pre-activation, otherwise columns are reused once dead.
  Plan(const Program& program, bool backward);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

// Copies a table [S * G, table_width] into rows of plan.exec.table_ld floats, zero-filled.
void pad_table(const Plan& plan, const float* table, int table_width, int64_t rows, float* out);
// Adds padded rows back: table[r, c] += padded[r, plan column of c].
void unpad_table(const Plan& plan, const float* padded, int table_width, int64_t rows, float* out);

// Any strided [n, k] matrix of floats.
struct Matrix {
  const float* data;
  int64_t row, col;  // strides in floats
};

// Packs a matrix, or its transpose, into panels: [k][w] floats each, w = 64 columns of the output
// (the last panel the rest, padded to 16 with zeros).
void pack(const Matrix& m, int n, int k, float* out);

// Floats that `pack` writes.
inline int64_t packed_size(int n, int k) { return static_cast<int64_t>(pad(n)) * k; }

}  // namespace cpu
}  // namespace dom2
