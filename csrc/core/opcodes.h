// Codes shared by dom2_fast/ops/program.py and every executor.
#pragma once

namespace dom2 {

enum class Op : int { kLinear, kActivation, kAdd, kMul, kLayerNorm, kDropout, kCopy };
constexpr int kOps = 7;

// All activations but "none", in the order of dom2_fast/activations.py. Each has its value and
// its derivative in cpu/vector.inl and cuda/activations.h.
#define DOM2_ACTIVATIONS(X) \
  X(Mish) X(Silu) X(Relu) X(Gelu) X(GeluTanh) X(Tanh) X(Softplus) X(Sigmoid) X(LeakyRelu) X(Elu)

#define DOM2_ENUMERATOR(NAME) k##NAME,
#define DOM2_ONE_MORE(NAME) +1
enum class Act : int { kNone, DOM2_ACTIVATIONS(DOM2_ENUMERATOR) };
constexpr int kActs = 1 DOM2_ACTIVATIONS(DOM2_ONE_MORE);
#undef DOM2_ENUMERATOR
#undef DOM2_ONE_MORE

// Numbers in a row of the solver table: inv_alpha, sigma_over_alpha, c_x, c_x0, c_prev, c_noise,
// low, high, c_prev2. See dom2_fast/policies/solvers.py.
constexpr int kSolverColumns = 9;

}  // namespace dom2
