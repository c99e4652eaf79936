#include "pack.h"

#include <algorithm>

#include "isa.h"

namespace dom2 {
namespace cpu {

void pad_table(const Plan& plan, const float* table, int table_width, int64_t rows, float* out) {
  const int64_t ld = plan.exec.table_ld;
  std::fill(out, out + rows * ld, 0.f);
  for (int64_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < plan.table_from.size(); ++i)
      std::copy_n(table + r * table_width + plan.table_from[i], plan.table_width[i],
                  out + r * ld + plan.table_to[i]);
}

void unpad_table(const Plan& plan, const float* padded, int table_width, int64_t rows, float* out) {
  const int64_t ld = plan.exec.table_ld;
  for (int64_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < plan.table_from.size(); ++i)
      for (int c = 0; c < plan.table_width[i]; ++c)
        out[r * table_width + plan.table_from[i] + c] += padded[r * ld + plan.table_to[i] + c];
}

int64_t packed_size(const Exec& e, bool transposed, bool bf16) {
  return transposed ? (bf16 ? e.bf16_t_size : e.packed_t_size)
                    : (bf16 ? e.bf16_size : e.packed_size);
}

void pack_weight(const Exec& e, const Weight& w, int64_t group, const Matrix& given,
                 bool transposed, bool bf16, float* packed) {
  const Matrix m = transposed ? Matrix{given.data, given.col, given.row} : given;
  const int n = transposed ? w.k : w.n, k = transposed ? w.n : w.k;
  const int64_t at = transposed ? (bf16 ? w.bf16_t : w.packed_t) : (bf16 ? w.bf16 : w.packed);
  active().pack(m, n, k, bf16, packed + group * packed_size(e, transposed, bf16) + at);
}

}  // namespace cpu
}  // namespace dom2
