#include "pack.h"

#include <algorithm>

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

void pack(const Matrix& m, int n, int k, float* out) {
  for (int first = 0; first < n; first += kPanel) {
    const int used = std::min(kPanel, n - first), width = pad(used);
    // Blocks of 16 x 16 keep both sides in cache whatever the strides.
    for (int k0 = 0; k0 < k; k0 += 16)
      for (int j0 = 0; j0 < width; j0 += 16)
        for (int kk = k0; kk < std::min(k0 + 16, k); ++kk)
          for (int j = j0; j < j0 + 16; ++j)
            out[static_cast<int64_t>(kk) * width + j] =
                j < used ? m.data[(first + j) * m.row + kk * m.col] : 0.f;
    out += static_cast<int64_t>(k) * width;
  }
}

}  // namespace cpu
}  // namespace dom2
