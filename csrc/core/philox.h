// Philox4x32-10 and what is drawn from it. dom2_fast/ops/philox.py defines the counters and the
// integers. Everything has internal linkage: this header is compiled for several instruction sets.
#pragma once
#include <math.h>
#include <stdint.h>

#include "host_device.h"

namespace dom2 {
namespace {

struct Rng {
  uint64_t seed = 0;
  uint32_t offset = 0;
};

constexpr uint32_t kStreamDropout = 0x40000000u, kStreamSample = 0x20000000u;

struct Words {
  uint32_t w[4];
};

DOM2_HD inline Words philox(const Rng& rng, uint32_t stream, uint64_t block) {
  uint32_t k0 = static_cast<uint32_t>(rng.seed), k1 = static_cast<uint32_t>(rng.seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = stream, c3 = rng.offset;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Two standard normals from two words (Box-Muller), in double and rounded once.
DOM2_HD inline void normal_pair(uint32_t a, uint32_t b, float* out) {
  const double radius = sqrt(-2.0 * log((a + 0.5) * 0x1p-32));
#if defined(__CUDA_ARCH__)
  // Arguments in units of pi need no reduction, whose tables would go to local memory.
  double sine, cosine;
  sincospi((b + 0.5) * 0x1p-31, &sine, &cosine);
#else
  const double angle = 6.283185307179586476925 * ((b + 0.5) * 0x1p-32);
  const double sine = sin(angle), cosine = cos(angle);
#endif
  out[0] = static_cast<float>(radius * cosine);
  out[1] = static_cast<float>(radius * sine);
}

// Columns [first, first + count) of row `row` of an array [rows, width] of standard normals;
// `first` is a multiple of four.
DOM2_HD inline void normal_columns(const Rng& rng, uint32_t stream, uint64_t row, int width,
                                   int first, int count, float* out) {
  const uint64_t block = row * ((static_cast<uint64_t>(width) + 3) / 4) + first / 4;
  for (int j = 0; j < count; j += 4) {
    const Words w = philox(rng, stream, block + j / 4);
    float z[4];
    normal_pair(w.w[0], w.w[1], z);
    normal_pair(w.w[2], w.w[3], z + 2);
    for (int i = 0; i < 4 && j + i < count; ++i) out[j + i] = z[i];
  }
}

}  // namespace
}  // namespace dom2
