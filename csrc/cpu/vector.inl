// One vector of DOM2_VL floats in the compilers' own vector extension, and the activation functions
// on it. Included by the kernel files once per instruction set; no std:: headers, internal linkage
// only. Coefficients: Chebyshev fits made with mpmath.chebyfit over the interval named beside each.

typedef float vf __attribute__((vector_size(DOM2_VL * 4)));
typedef int32_t vi __attribute__((vector_size(DOM2_VL * 4)));
typedef uint32_t vu __attribute__((vector_size(DOM2_VL * 4)));
typedef uint16_t vh __attribute__((vector_size(DOM2_VL * 2)));

constexpr int VL = DOM2_VL;

#define DOM2_INLINE inline __attribute__((always_inline))

DOM2_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
DOM2_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
DOM2_INLINE vu load(const uint32_t* p) {
  vu v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
DOM2_INLINE void store(uint32_t* p, vu v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n <= VL floats; the rest are zero.
DOM2_INLINE vf load(const float* p, int n) {
  if (n == VL) return load(p);
  vf v = {};
#if DOM2_VL == 4  // one by one: gcc keeps what is live across a call of memcpy out of registers
  if (n > 0) v[0] = p[0];
  if (n > 1) v[1] = p[1];
  if (n > 2) v[2] = p[2];
#else
  __builtin_memcpy(&v, p, n * sizeof(float));
#endif
  return v;
}
DOM2_INLINE void store(float* p, vf v, int n) {
  if (n == VL) return store(p, v);
#if DOM2_VL == 4
  if (n > 0) p[0] = v[0];
  if (n > 1) p[1] = v[1];
  if (n > 2) p[2] = v[2];
#else
  __builtin_memcpy(p, &v, n * sizeof(float));
#endif
}

DOM2_INLINE vf splat(float s) {
#if DOM2_VL == 16
  return vf{s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
#elif DOM2_VL == 8
  return vf{s, s, s, s, s, s, s, s};
#else
  return vf{s, s, s, s};
#endif
}

DOM2_INLINE vu splat(uint32_t s) { return vu{} + s; }

DOM2_INLINE vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }
// A NaN in b gives NaN; one in a alone gives b, or NaN on ARM. 2^n e, n whole, for results in the
// normal range.
#if DOM2_VL == 16
DOM2_INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
DOM2_INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
DOM2_INLINE vf vscale(vf e, vf n) { return (vf)_mm512_scalef_ps((__m512)e, (__m512)n); }
#else
#if defined(DOM2_NEON)
DOM2_INLINE vf vmin(vf a, vf b) { return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b); }
DOM2_INLINE vf vmax(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
#else
DOM2_INLINE vf vmin(vf a, vf b) { return select(a < b, a, b); }
DOM2_INLINE vf vmax(vf a, vf b) { return select(a > b, a, b); }
#endif
DOM2_INLINE vf vscale(vf e, vf n) { return e * (vf)((__builtin_convertvector(n, vi) + 127) << 23); }
#endif
DOM2_INLINE vf vabs(vf a) { return (vf)((vi)a & 0x7fffffff); }

// The bf16 number nearest to each float, ties to even. NaN stays NaN.
DOM2_INLINE vh round_bf16(vf v) {
#if defined(DOM2_BF16)
  return (vh)_mm512_cvtneps_pbh((__m512)v);  // takes denormal numbers for zero, as its product does
#else
  const vu u = (vu)v, r = (u + (((u >> 16) & 1u) + 0x7fffu)) >> 16;
  const vu nan = (vu)(v != v);
  return __builtin_convertvector((r & ~nan) | (nan & 0x7fc0u), vh);
#endif
}

// The same of two vectors, one number of each to a word.
DOM2_INLINE vu pair_bf16(vf even, vf odd) {
#if defined(DOM2_BF16)
  const __m512i index = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  return (vu)_mm512_permutexvar_epi16(index, both);
#else
  return __builtin_convertvector(round_bf16(even), vu) |
         __builtin_convertvector(round_bf16(odd), vu) << 16;
#endif
}

#if defined(DOM2_BF16)
// c + a.odd b.odd + a.even b.even, where a word is (even | odd << 16). The products are exact.
DOM2_INLINE vf dot_bf16(vf c, vu a, vu b) {
  return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
#endif

DOM2_INLINE float sum(vf v) {
  float s = 0;
  for (int i = 0; i < VL; ++i) s += v[i];
  return s;
}

// e^x for x <= 88.3 (larger x: as at 88.3); 0 below -87.3. NaN stays NaN.
DOM2_INLINE vf vexp(vf x) {
  const vf low = splat(-87.3f), high = splat(88.3f);
  const vf c = vmin(high, vmax(low, x));
  const vf magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf n = (c * splat(1.44269504088896341f) + magic) - magic;
  const vf f = (c - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
  // e^f = 1 + f + f^2 P(f), |f| <= ln(2) / 2 * 1.01, error 1.5e-9
  vf p = splat(1.9891981314e-04f);
  p = p * f + splat(1.3934541928e-03f);
  p = p * f + splat(8.3333100242e-03f);
  p = p * f + splat(4.1666456810e-02f);
  p = p * f + splat(1.6666666683e-01f);
  p = p * f + splat(5.0000000143e-01f);
  const vf e = (p * (f * f) + f) + splat(1.f);
  return select(x < low, vf{}, vscale(e, n));
}

// How the functions below take exponentials and quotients. Exact: the same bits on all processors.
struct Exact {
  static DOM2_INLINE vf exp(vf x) { return vexp(x); }
  static DOM2_INLINE vf div(vf a, vf b) { return a / b; }
};

// For values that are rounded to bf16 afterwards, 4e-3 apart: relative error of exp 3e-6, of div
// 6e-5, at half the price.
#if defined(DOM2_BF16)
struct Quick {
  static DOM2_INLINE vf exp(vf x) {  // 2^n 2^f, |f| <= 1/2
    const vf t = vmin(splat(88.f), vmax(splat(-87.f), x)) * splat(1.44269504088896341f);
    const vf n = (vf)_mm512_roundscale_ps((__m512)t, _MM_FROUND_TO_NEAREST_INT), f = t - n;
    vf p = splat(9.5701004828e-03f);
    p = p * f + splat(5.5917860209e-02f);
    p = p * f + splat(2.4024744863e-01f);
    p = p * f + splat(6.9312181476e-01f);
    p = p * f + splat(9.9999926144e-01f);
    return vscale(p, n);
  }
  static DOM2_INLINE vf div(vf a, vf b) { return a * (vf)_mm512_rcp14_ps((__m512)b); }
};
#else
using Quick = Exact;
#endif

// log(1 + u) for u in [0, 1]: 2 s (1 + s^2 P(s^2)), s = u / (2 + u), error 3.6e-9
template <class M>
DOM2_INLINE vf vlog1p01(vf u) {
  const vf s = M::div(u, splat(2.f) + u), q = s * s;
  vf p = splat(1.1612164612e-01f);
  p = p * q + splat(1.0853287900e-01f);
  p = p * q + splat(1.4296178997e-01f);
  p = p * q + splat(1.9999853166e-01f);
  p = p * q + splat(3.3333333660e-01f);
  return (s + s) + (s + s) * (p * q);
}

template <class M>
DOM2_INLINE vf vtanh(vf x) {
  const vf a = vabs(x), q = x * x;
  // tanh x = x + x^3 P(x^2), |x| < 0.625, error 1.6e-9
  vf p = splat(2.2927448162e-03f);
  p = p * q + splat(-8.3439455158e-03f);
  p = p * q + splat(2.1768918651e-02f);
  p = p * q + splat(-5.3959259577e-02f);
  p = p * q + splat(1.3333303557e-01f);
  p = p * q + splat(-3.3333333172e-01f);
  const vf small = x + x * (p * q);
  const vf e = M::exp(a + a);
  const vf big = splat(1.f) - M::div(splat(2.f), e + splat(1.f));
  return select(a < splat(0.625f), small, (vf)((vi)big | ((vi)x & (int32_t)0x80000000)));
}

// sigmoid(x) and, free of the cancellation in 1 - s, sigmoid(-x).
struct Sigmoid {
  vf s, c;
};

template <class M>
DOM2_INLINE Sigmoid vsigmoid(vf x) {
  // e / (1 + e) from e = exp(-|x|) <= 1 never overflows and keeps the small tail exact.
  const vf e = M::exp(-vabs(x)), r = M::div(splat(1.f), splat(1.f) + e), er = e * r;
  const vi negative = x < vf{};
  return {select(negative, er, r), select(negative, r, er)};
}

// The normal distribution function: erfc(-x / sqrt 2) / 2.
template <class M>
DOM2_INLINE vf vnormal_cdf(vf x) {
  const vf u = x * splat(0.70710678118654752f), a = vabs(u), q = u * u;
  // erf u = u P(u^2), |u| < 0.54, error 4e-11
  vf p = splat(-7.5352757329e-04f);
  p = p * q + splat(5.1905537071e-03f);
  p = p * q + splat(-2.6861026490e-02f);
  p = p * q + splat(1.1283755702e-01f);
  p = p * q + splat(-3.7612637981e-01f);
  p = p * q + splat(1.1283791671e+00f);
  const vf small = splat(0.5f) + splat(0.5f) * (u * p);
  // erfc a = e^(-a^2) Q(t), t = 1 / (1 + a / 2), 0.5 <= a <= 10, error 4e-10
  const vf t = M::div(splat(1.f), splat(1.f) + splat(0.5f) * a);
  vf r = splat(-7.7322827676e-02f);
  r = r * t + splat(3.6360009942e-01f);
  r = r * t + splat(-6.3368079733e-01f);
  r = r * t + splat(4.3005809528e-01f);
  r = r * t + splat(-1.2352819575e-01f);
  r = r * t + splat(2.4189884680e-01f);
  r = r * t + splat(2.3306885206e-01f);
  r = r * t + splat(2.8393695410e-01f);
  r = r * t + splat(2.8195255701e-01f);
  r = r * t + splat(4.8128338263e-06f);
  const vf tail =
      splat(0.5f) * (M::exp(splat(-0.5f) * (x * x)) * r);  // x^2 / 2 rounds once, u^2 more
  return select(a < splat(0.5f), small, select(x < vf{}, tail, splat(1.f) - tail));
}

// e^x - 1 for x <= 0.
template <class M>
DOM2_INLINE vf vexpm1_down(vf x) {
  // x + x^2 P(x), |x| < 0.35, as in vexp: no cancellation
  vf p = splat(1.9891981314e-04f);
  p = p * x + splat(1.3934541928e-03f);
  p = p * x + splat(8.3333100242e-03f);
  p = p * x + splat(4.1666456810e-02f);
  p = p * x + splat(1.6666666683e-01f);
  p = p * x + splat(5.0000000143e-01f);
  return select(x > splat(-0.34f), p * (x * x) + x, M::exp(x) - splat(1.f));
}

// What the formulas of ../core/activations.h are made of; M: Exact or Quick.
template <class M>
struct Vector : M {
  using F = vf;
  static DOM2_INLINE vf all(float s) { return splat(s); }
  static DOM2_INLINE vf min(vf a, vf b) { return vmin(a, b); }
  static DOM2_INLINE vf max(vf a, vf b) { return vmax(a, b); }
  static DOM2_INLINE vf abs(vf a) { return vabs(a); }
  static DOM2_INLINE vf select(vi mask, vf yes, vf no) { return cpu::select(mask, yes, no); }
  static DOM2_INLINE vf keep_nan(vf, vf y) { return y; }  // vmin keeps a NaN in b
  static DOM2_INLINE Sigmoid sigmoid(vf x) { return vsigmoid<M>(x); }
  static DOM2_INLINE vf normal_cdf(vf x) { return vnormal_cdf<M>(x); }
  static DOM2_INLINE vf tanh(vf x) { return vtanh<M>(x); }
  static DOM2_INLINE vf log1p(vf u) { return vlog1p01<M>(u); }
  static DOM2_INLINE vf expm1(vf x) { return vexpm1_down<M>(x); }
};

template <class M, Act A>
DOM2_INLINE vf activate(vf x) {
  return Formula<Vector<M>, A>::value(x);
}

template <class M, Act A>
DOM2_INLINE vf derivative(vf x) {
  return Formula<Vector<M>, A>::slope(x);
}

// Runs DOM2_CALL(A), a macro of the place of use, with the activation known at compile time.
#define DOM2_ACT_CASE(NAME)  \
  case Act::k##NAME:         \
    DOM2_CALL(Act::k##NAME); \
    break;
#define DOM2_ACT_SWITCH(act)        \
  switch (static_cast<Act>(act)) {  \
    DOM2_ACTIVATIONS(DOM2_ACT_CASE) \
    default:                        \
      DOM2_CALL(Act::kNone);        \
      break;                        \
  }
