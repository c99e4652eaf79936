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

int64_t packed_size(const Exec& e, bool transposed, bool half) {
  return transposed ? (half ? e.half_t_size : e.packed_t_size)
                    : (half ? e.half_size : e.packed_size);
}

void pack_weight(const Exec& e, const Weight& w, int64_t group, const Matrix& given,
                 bool transposed, bool half, float* packed) {
  const Matrix m = transposed ? Matrix{given.data, given.col, given.row} : given;
  const int n = transposed ? w.k : w.n, k = transposed ? w.n : w.k;
  const int64_t at = transposed ? (half ? w.half_t : w.packed_t) : (half ? w.half : w.packed);
  active().pack(m, n, k, half, packed + group * packed_size(e, transposed, half) + at);
}

}  // namespace cpu
}  // namespace dom2
