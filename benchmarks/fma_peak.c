// How fast this core multiplies at best: fused multiply-adds between registers, nothing else.
//
// BYTES is the width of a vector. With BF16 it is vdpbf16ps, products and sums of pairs in bf16.
// Returns the floating-point operations done; `sink` keeps the compiler from leaving them out.
typedef float vec __attribute__((vector_size(BYTES)));
#ifdef BF16
#include <immintrin.h>
#define STEP(s) s = (vec)_mm512_dpbf16_ps((__m512)s, (__m512bh)a, (__m512bh)b);
#define EACH 4.0
#else
#define STEP(s) s = s * a + b;
#define EACH 2.0
#endif
// 12 chains: two units of four or five stages each are kept busy, in registers of either set.
#define CHAINS(X) X(s0) X(s1) X(s2) X(s3) X(s4) X(s5) X(s6) X(s7) X(s8) X(s9) X(s10) X(s11)
#define START(s) vec s = a; __asm__ volatile("" : "+x"(s));  // not known to be the same
#define ADD(s) total += s;

double fma_peak(long rounds, float* sink) {
  vec a = {0}, b = {0};
  a += 0.999f, b += 1e-3f;
  CHAINS(START)
  for (long r = 0; r < rounds; ++r) {
    CHAINS(STEP)
  }
  vec total = {0};
  CHAINS(ADD)
  *sink += total[0];
  return EACH * 12 * (BYTES / 4) * rounds;
}
