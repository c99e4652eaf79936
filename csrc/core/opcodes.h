// Codes shared by dom2_fast/ops/program.py and every executor.
#pragma once

namespace dom2 {

enum class Op : int { kLinear, kActivation, kAdd, kMul, kLayerNorm, kDropout, kCopy };
constexpr int kOps = 7;

// All activations but "none", in the order of dom2_fast/activations.py. Each has its value and
// its derivative in cpu/vector.inl and cuda/activations.h.
#define DOM2_ACTIVATIONS(X) X(Mish) X(Silu) X(Relu) X(Gelu) X(GeluTanh) X(Tanh) X(Softplus)

#define DOM2_ENUMERATOR(NAME) k##NAME,
#define DOM2_ONE_MORE(NAME) +1
enum class Act : int { kNone, DOM2_ACTIVATIONS(DOM2_ENUMERATOR) };
constexpr int kActs = 1 DOM2_ACTIVATIONS(DOM2_ONE_MORE);
#undef DOM2_ENUMERATOR
#undef DOM2_ONE_MORE

}  // namespace dom2
