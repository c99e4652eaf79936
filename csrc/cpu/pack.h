// Weights and tables in the layout that the CPU executors read. Torch-free.
#pragma once
#include "../core/plan.h"
#include "exec.h"

namespace dom2 {
namespace cpu {

// Copies a table [S * G, table_width] into rows of plan.exec.table_ld floats, zero-filled.
void pad_table(const Plan& plan, const float* table, int table_width, int64_t rows, float* out);
// Adds padded rows back: table[r, c] += padded[r, plan column of c].
void unpad_table(const Plan& plan, const float* padded, int table_width, int64_t rows, float* out);

// Packs group `group` of weight `w` to its place among the packed weights of all groups.
void pack_weight(const Exec& e, const Weight& w, int64_t group, const Matrix& m, bool transposed,
                 bool bf16, float* packed);
// Floats (or words, which take as much room) that one group's packed weights take.
int64_t packed_size(const Exec& e, bool transposed, bool bf16);

}  // namespace cpu
}  // namespace dom2
