// What the formulas of ../core/activations.h are made of here, element by element.
#pragma once
#include "../core/opcodes.h"
#include "device.h"

namespace dom2 {
namespace cuda {

// sigmoid(x) and, free of the cancellation in 1 - s, sigmoid(-x).
struct Sigmoid {
  float s, c;
};

struct Scalar {
  using F = float;
  static __device__ __forceinline__ float all(float s) { return s; }
  static __device__ __forceinline__ float exp(float x) { return expf(x); }
  static __device__ __forceinline__ float div(float a, float b) { return a / b; }
  static __device__ __forceinline__ float min(float a, float b) { return fminf(a, b); }
  static __device__ __forceinline__ float max(float a, float b) { return fmaxf(a, b); }
  static __device__ __forceinline__ float abs(float x) { return fabsf(x); }
  static __device__ __forceinline__ float select(bool c, float yes, float no) {
    return c ? yes : no;
  }
  static __device__ __forceinline__ float keep_nan(float x, float y) { return x != x ? x : y; }
  static __device__ __forceinline__ Sigmoid sigmoid(float x) {
    const float e = expf(-fabsf(x)), r = 1.f / (1.f + e);
    return x < 0.f ? Sigmoid{e * r, r} : Sigmoid{r, e * r};
  }
  static __device__ __forceinline__ float normal_cdf(float x) {
    return 0.5f * erfcf(-0.70710678118654752f * x);
  }
  static __device__ __forceinline__ float tanh(float x) { return tanhf(x); }
  static __device__ __forceinline__ float log1p(float u) { return log1pf(u); }
  static __device__ __forceinline__ float expm1(float x) { return expm1f(x); }
};

template <Act A>
__device__ __forceinline__ float activate(float x) {
  return Formula<Scalar, A>::value(x);
}

template <Act A>
__device__ __forceinline__ float derivative(float x) {
  return Formula<Scalar, A>::slope(x);
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
