// Every activation in one place: its name, its value and its derivative, for CPUs and for GPUs. A
// name without its formulas doesn't compile.
//
// A formula is written for one number or a vector of them, F. What an executor must bring along is
// a struct M of static functions: all (a constant), exp, div, min, max, abs, select (by a
// comparison), keep_nan (the second, or the first where that is NaN and min has lost it), sigmoid
// (.s, and .c = 1 - s without cancellation), normal_cdf, tanh, log1p of [0, 1] and expm1 of x <= 0:
// cpu/vector.inl, cuda/activations.h. Sums and products are written in the order that keeps the
// relative error small over the whole float range.
#pragma once

namespace dom2 {

// All activations but "none", in the order of dom2_fast/activations.py: their places are the codes.
#define DOM2_ACTIVATIONS(X) \
  X(Mish) X(Silu) X(Relu) X(Gelu) X(GeluTanh) X(Tanh) X(Softplus) X(Sigmoid) X(LeakyRelu) X(Elu)

#define DOM2_ENUMERATOR(NAME) k##NAME,
#define DOM2_ONE_MORE(NAME) +1
enum class Act : int { kNone, DOM2_ACTIVATIONS(DOM2_ENUMERATOR) };
constexpr int kActs = 1 DOM2_ACTIVATIONS(DOM2_ONE_MORE);
#undef DOM2_ENUMERATOR
#undef DOM2_ONE_MORE

#if defined(__CUDACC__)
#define DOM2_FORMULA static __device__ __forceinline__
#else
#define DOM2_FORMULA static inline __attribute__((always_inline))
#endif

constexpr float kGeluScale = 0.79788456080286536f, kGeluCube = 0.044715f;
constexpr float kLeak = 0.01f;  // torch's default slope

template <class M, Act A, class F = typename M::F>
struct Formula;

template <class M, class F>
struct Formula<M, Act::kNone, F> {
  DOM2_FORMULA F value(F x) { return x; }
  DOM2_FORMULA F slope(F) { return M::all(1.f); }
};

template <class M, class F>
struct Formula<M, Act::kMish, F> {
  // x n / (n + 2), n = w^2 + 2 w, w = e^x; the ratio is 1 beyond 20
  DOM2_FORMULA F value(F x) {
    const F w = M::exp(M::min(M::all(20.f), x)), n = w * (w + 2.f);
    return M::keep_nan(x, x * M::div(n, n + 2.f));
  }
  // n / d + x 4 w (w + 1) / d^2, d = n + 2
  DOM2_FORMULA F slope(F x) {
    const F c = M::max(M::min(x, M::all(20.f)), M::all(-100.f)), w = M::exp(c), n = w * (w + 2.f),
            r = M::div(M::all(1.f), n + 2.f);
    return n * r + (c * 4.f) * ((w * r) * ((w + 1.f) * r));
  }
};

template <class M, class F>
struct Formula<M, Act::kSilu, F> {
  DOM2_FORMULA F value(F x) { return x * M::sigmoid(x).s; }
  DOM2_FORMULA F slope(F x) {
    const auto g = M::sigmoid(x);
    return g.s * (1.f + x * g.c);
  }
};

template <class M, class F>
struct Formula<M, Act::kRelu, F> {
  DOM2_FORMULA F value(F x) { return M::select(x < 0.f, M::all(0.f), x); }
  DOM2_FORMULA F slope(F x) { return M::select(x > 0.f, M::all(1.f), M::all(0.f)); }
};

template <class M, class F>
struct Formula<M, Act::kGelu, F> {
  DOM2_FORMULA F value(F x) { return x * M::normal_cdf(x); }
  DOM2_FORMULA F slope(F x) {
    const F c = M::max(M::min(x, M::all(30.f)), M::all(-30.f));  // x^2 must stay finite
    return M::normal_cdf(x) + c * (0.39894228040143268f * M::exp(-0.5f * (c * c)));
  }
};

template <class M, class F>
struct Formula<M, Act::kGeluTanh, F> {
  // (1 + tanh u) / 2 = sigmoid(2 u)
  DOM2_FORMULA F value(F x) {
    const F u = kGeluScale * (x + kGeluCube * (x * x * x));
    return x * M::sigmoid(u + u).s;
  }
  DOM2_FORMULA F slope(F x) {
    const F c = M::max(M::min(x, M::all(30.f)), M::all(-30.f)), q = c * c;
    const F u = kGeluScale * (c + kGeluCube * (q * c));
    const auto g = M::sigmoid(u + u);
    const F du = 2.f * kGeluScale * (1.f + 3.f * kGeluCube * q);
    return g.s + c * (g.s * g.c) * du;
  }
};

template <class M, class F>
struct Formula<M, Act::kTanh, F> {
  DOM2_FORMULA F value(F x) { return M::tanh(x); }
  DOM2_FORMULA F slope(F x) {
    const F t = M::tanh(x);
    return (1.f - t) * (1.f + t);
  }
};

template <class M, class F>
struct Formula<M, Act::kSoftplus, F> {
  DOM2_FORMULA F value(F x) {
    return M::select(x != x, x, M::max(x, M::all(0.f)) + M::log1p(M::exp(-M::abs(x))));
  }
  DOM2_FORMULA F slope(F x) { return M::sigmoid(x).s; }
};

template <class M, class F>
struct Formula<M, Act::kSigmoid, F> {
  DOM2_FORMULA F value(F x) { return M::sigmoid(x).s; }
  DOM2_FORMULA F slope(F x) {
    const auto g = M::sigmoid(x);
    return g.s * g.c;
  }
};

template <class M, class F>
struct Formula<M, Act::kLeakyRelu, F> {
  DOM2_FORMULA F value(F x) { return M::select(x < 0.f, x * kLeak, x); }
  DOM2_FORMULA F slope(F x) { return M::select(x > 0.f, M::all(1.f), M::all(kLeak)); }
};

template <class M, class F>
struct Formula<M, Act::kElu, F> {
  DOM2_FORMULA F value(F x) { return M::select(x > 0.f, x, M::expm1(x)); }
  DOM2_FORMULA F slope(F x) { return M::select(x > 0.f, M::all(1.f), M::exp(x)); }
};

}  // namespace dom2
