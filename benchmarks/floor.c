// One action of the MLP noise network in plain C: the floor that one row is held against.
//
// 5 (or as many as asked) steps of x <- a x - b net(x, t, obs), 3 layers of 256 with Mish,
// observations of 18 numbers, actions of 2, one thread, no intrinsics: what a compiler makes of
// three loops (floor.py gives it its flags). 128 columns a pass, so that a row of a matrix is read
// in long stretches and the sums stay in registers; 16 columns took four times as long.
// Mish and its exponential are those of the C library's expf, vectorised by -ffast-math.
#include <math.h>
#include <string.h>

enum { N = 256, A = 2, T = 16, O = 18, K = A + T + O, STEPS = 64, COLUMNS = 128 };

static float w0[K][N], w1[N][N], w2[N][N], w3[A][N], b0[N], b1[N], b2[N], b3[A];
static float times[STEPS][T], row[STEPS][2];  // the time's embedding; a and b of each step
static int steps;

// Matrices are [in][out] but for the last, [out][in]. Returns 0, or 1 where there are too many steps.
int floor_init(const float* m0, const float* m1, const float* m2, const float* m3, const float* v0,
               const float* v1, const float* v2, const float* v3, const float* embedded,
               const float* coefficients, int count) {
  if (count > STEPS) return 1;
  memcpy(w0, m0, sizeof w0), memcpy(w1, m1, sizeof w1), memcpy(w2, m2, sizeof w2);
  memcpy(w3, m3, sizeof w3), memcpy(b0, v0, sizeof b0), memcpy(b1, v1, sizeof b1);
  memcpy(b2, v2, sizeof b2), memcpy(b3, v3, sizeof b3), steps = count;
  memcpy(times, embedded, sizeof(float) * count * T);
  memcpy(row, coefficients, sizeof(float) * count * 2);
  return 0;
}

static inline void layer(const float* restrict x, int in, const float (*restrict w)[N],
                         const float* restrict b, float* restrict y) {
  for (int first = 0; first < N; first += COLUMNS) {
    float sum[COLUMNS];
    for (int j = 0; j < COLUMNS; ++j) sum[j] = b[first + j];
    for (int k = 0; k < in; ++k) {
      const float s = x[k];
      for (int j = 0; j < COLUMNS; ++j) sum[j] += s * w[k][first + j];
    }
    for (int j = 0; j < COLUMNS; ++j) {  // x tanh(log(1 + e^x)) = x n / (n + 2), n = e (e + 2)
      const float v = sum[j], e = expf(v < 20.f ? v : 20.f), n = e * (e + 2.f);
      y[first + j] = v * n / (n + 2.f);
    }
  }
}

static void act(const float* obs, const float* start, float bound, float* out) {
  float x[A], h[K], u[N], v[N];
  memcpy(x, start, sizeof x), memcpy(h + A + T, obs, sizeof(float) * O);
  for (int s = 0; s < steps; ++s) {
    memcpy(h, x, sizeof x), memcpy(h + A, times[s], sizeof times[s]);
    layer(h, K, w0, b0, u), layer(u, N, w1, b1, v), layer(v, N, w2, b2, u);
    for (int o = 0; o < A; ++o) {
      float d = b3[o];
      for (int k = 0; k < N; ++k) d += u[k] * w3[o][k];
      x[o] = row[s][0] * x[o] - row[s][1] * d;
    }
  }
  for (int o = 0; o < A; ++o) out[o] = x[o] < -bound ? -bound : x[o] > bound ? bound : x[o];
}

// The same action `calls` times; times are taken around it, without what a call from Python takes.
void floor_act(const float* obs, const float* start, float bound, float* out, long calls) {
  for (long c = 0; c < calls; ++c) {
    act(obs, start, bound, out);
    __asm__ volatile("" : : "r"(obs), "r"(out) : "memory");  // not hoisted out of the loop
  }
}
