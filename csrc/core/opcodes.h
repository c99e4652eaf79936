// Codes shared by dom2_fast/ops/program.py and every executor.
#pragma once
#include "activations.h"  // their codes, Act

namespace dom2 {

enum class Op : int { kLinear, kActivation, kAdd, kMul, kLayerNorm, kDropout, kCopy };
constexpr int kOps = 7;

// Numbers in a row of the solver table: inv_alpha, sigma_over_alpha, c_x, c_x0, c_prev, c_noise,
// low, high, c_prev2. See dom2_fast/policies/solvers.py.
constexpr int kSolverColumns = 9;

}  // namespace dom2
