#include "pack.h"

#include <algorithm>
#include <cstring>

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

namespace {

// The nearest bf16 number, ties to even; NaN stays NaN.
uint32_t round_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return f != f ? 0x7fc0u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

}  // namespace

void pack_half(const Matrix& m, int n, int k, uint32_t* out) {
  uint32_t block[16][16];  // [column of the product][its k]: rounded in the order of memory
  for (int first = 0; first < n; first += kPanel) {
    const int used = std::min(kPanel, n - first), width = pad(used);
    for (int k0 = 0; k0 < k; k0 += 16) {
      const int kn = std::min(16, k - k0);
      for (int j0 = 0; j0 < width; j0 += 16) {
        for (int j = 0; j < 16; ++j)
          for (int kk = 0; kk < 16; ++kk)
            block[j][kk] = kk < kn && j0 + j < used
                               ? round_bf16(m.data[(first + j0 + j) * m.row + (k0 + kk) * m.col])
                               : 0u;
        for (int kk = 0; kk < kn; kk += 2)
          for (int j = 0; j < 16; ++j)
            out[static_cast<int64_t>((k0 + kk) / 2) * width + j0 + j] =
                block[j][kk] | block[j][kk + 1] << 16;
      }
    }
    out += static_cast<int64_t>(pairs(k)) * width;
  }
}

int64_t packed_size(const Exec& e, bool transposed, bool half) {
  return transposed ? (half ? e.half_t_size : e.packed_t_size)
                    : (half ? e.half_size : e.packed_size);
}

void pack_weight(const Exec& e, const Weight& w, int64_t group, const Matrix& given,
                 bool transposed, bool half, float* packed) {
  const Matrix m = transposed ? Matrix{given.data, given.col, given.row} : given;
  const int n = transposed ? w.k : w.n, k = transposed ? w.n : w.k;
  float* to = packed + group * packed_size(e, transposed, half);
  if (half)
    pack_half(m, n, k, reinterpret_cast<uint32_t*>(to + (transposed ? w.half_t : w.half)));
  else
    pack(m, n, k, to + (transposed ? w.packed_t : w.packed));
}

}  // namespace cpu
}  // namespace dom2
