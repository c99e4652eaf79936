// Where a launch's random numbers start.
#pragma once
#include "../core/philox.h"

namespace dom2 {
namespace cuda {
namespace {  // as what it is made of: core/philox.h

// (seed, offset) of a call: from the device, where a captured graph finds new ones, or by value.
// Read where it is needed: registers are short.
template <class Call>
__device__ __forceinline__ Rng rng_of(const Call& c) {
  if (!c.rng) return Rng{c.seed, c.offset};
  return Rng{static_cast<uint64_t>(c.rng[0]), static_cast<uint32_t>(c.rng[1])};
}

}  // namespace
}  // namespace cuda
}  // namespace dom2
