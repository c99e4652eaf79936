// Alias tables (Walker 1977; Vose 1991) and the draw of one transition from them.
// dom2_fast/ops/reference.py defines the integers. Torch-free.
#pragma once
#include <stdint.h>

#include "host_device.h"

namespace dom2 {
namespace {

struct AliasTable {
  const int64_t* threshold;  // [n], in [0, 2^32]
  const int64_t* alias;      // [n]
  const int64_t* starts;     // [n + 1]
  int64_t n;
};

// The transition that four random words stand for.
DOM2_HD inline int64_t draw(const AliasTable& t, const uint32_t* w) {
  const int64_t column = static_cast<int64_t>((uint64_t{w[0]} * static_cast<uint64_t>(t.n)) >> 32);
  const int64_t j = int64_t{w[1]} < t.threshold[column] ? column : t.alias[column];
  const uint64_t length = static_cast<uint64_t>(t.starts[j + 1] - t.starts[j]);
  return t.starts[j] + static_cast<int64_t>((uint64_t{w[2]} * length) >> 32);
}

}  // namespace
}  // namespace dom2
