// Activations and their derivatives, element by element. Formulas that keep their relative error
// small over the whole float range; compare csrc/cpu/vector.inl.
#pragma once
#include "../core/opcodes.h"
#include "device.h"

namespace dom2 {
namespace cuda {

// sigmoid(x) and, free of the cancellation in 1 - s, sigmoid(-x).
struct Sigmoid {
  float s, c;
};

__device__ __forceinline__ Sigmoid sigmoid(float x) {
  const float e = expf(-fabsf(x)), r = 1.f / (1.f + e);
  return x < 0.f ? Sigmoid{e * r, r} : Sigmoid{r, e * r};
}

__device__ __forceinline__ float normal_cdf(float x) {
  return 0.5f * erfcf(-0.70710678118654752f * x);
}

constexpr float kGeluScale = 0.79788456080286536f, kGeluCube = 0.044715f;
constexpr float kLeak = 0.01f;  // torch's default slope

template <Act A>
__device__ __forceinline__ float activate(float x) {
  if constexpr (A ==
                Act::kMish) {  // x n / (n + 2), n = w^2 + 2 w, w = e^x; the ratio is 1 beyond 20
    const float w = expf(fminf(x, 20.f)), n = w * (w + 2.f);
    return x != x ? x : x * (n / (n + 2.f));
  } else if constexpr (A == Act::kSilu) {
    return x * sigmoid(x).s;
  } else if constexpr (A == Act::kRelu) {
    return x < 0.f ? 0.f : x;
  } else if constexpr (A == Act::kGelu) {
    return x * normal_cdf(x);
  } else if constexpr (A == Act::kGeluTanh) {  // (1 + tanh u) / 2 = sigmoid(2 u)
    const float u = kGeluScale * (x + kGeluCube * (x * x * x));
    return x * sigmoid(u + u).s;
  } else if constexpr (A == Act::kTanh) {
    return tanhf(x);
  } else if constexpr (A == Act::kSoftplus) {
    return x != x ? x : fmaxf(x, 0.f) + log1pf(expf(-fabsf(x)));
  } else if constexpr (A == Act::kSigmoid) {
    return sigmoid(x).s;
  } else if constexpr (A == Act::kLeakyRelu) {
    return x < 0.f ? x * kLeak : x;
  } else if constexpr (A == Act::kElu) {
    return x > 0.f ? x : expm1f(x);
  } else {
    return x;
  }
}

template <Act A>
__device__ __forceinline__ float derivative(float x) {
  if constexpr (A == Act::kMish) {  // n / d + x 4 w (w + 1) / d^2, d = n + 2
    const float c = fmaxf(fminf(x, 20.f), -100.f), w = expf(c), n = w * (w + 2.f);
    const float r = 1.f / (n + 2.f);
    return n * r + (c * 4.f) * ((w * r) * ((w + 1.f) * r));
  } else if constexpr (A == Act::kSilu) {
    const Sigmoid g = sigmoid(x);
    return g.s * (1.f + x * g.c);
  } else if constexpr (A == Act::kRelu) {
    return x > 0.f ? 1.f : 0.f;
  } else if constexpr (A == Act::kGelu) {
    const float c = fmaxf(fminf(x, 30.f), -30.f);  // x^2 must stay finite
    return normal_cdf(x) + c * (0.39894228040143268f * expf(-0.5f * (c * c)));
  } else if constexpr (A == Act::kGeluTanh) {
    const float c = fmaxf(fminf(x, 30.f), -30.f), q = c * c;
    const float u = kGeluScale * (c + kGeluCube * (q * c));
    const Sigmoid g = sigmoid(u + u);
    const float du = 2.f * kGeluScale * (1.f + 3.f * kGeluCube * q);
    return g.s + c * (g.s * g.c) * du;
  } else if constexpr (A == Act::kTanh) {
    const float t = tanhf(x);
    return (1.f - t) * (1.f + t);
  } else if constexpr (A == Act::kSoftplus) {
    return sigmoid(x).s;
  } else if constexpr (A == Act::kSigmoid) {
    const Sigmoid g = sigmoid(x);
    return g.s * g.c;
  } else if constexpr (A == Act::kLeakyRelu) {
    return x > 0.f ? 1.f : kLeak;
  } else if constexpr (A == Act::kElu) {
    return x > 0.f ? 1.f : expf(x);
  } else {
    return 1.f;
  }
}

template <Act A>
struct ActTag {
  static constexpr Act value = A;
};

// Calls f(ActTag<A>()) for an activation known at run time only, outside of the caller's loop.
#define DOM2_ACT_CASE(NAME) \
  case Act::k##NAME:        \
    return f(ActTag<Act::k##NAME>());
template <class F>
__device__ __forceinline__ void with_activation(int act, const F& f) {
  switch (static_cast<Act>(act)) {
    DOM2_ACTIVATIONS(DOM2_ACT_CASE)
    default:
      return f(ActTag<Act::kNone>());
  }
}
#undef DOM2_ACT_CASE

}  // namespace cuda
}  // namespace dom2
