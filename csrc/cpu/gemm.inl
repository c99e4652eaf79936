// The matrix products of the executors, on rows of scratch memory and packed panels.
// Included after vector.inl, once per instruction set.
//
// Every product accumulates over k in order, in one register per output, so a row's result doesn't
// depend on how many rows are computed with it.

#if DOM2_VL == 16
constexpr int MR = 6, NV = 4;  // 24 accumulators + 4 loads + 1 broadcast of 32 registers
#elif DOM2_VL == 8
constexpr int MR = 6, NV = 2;  // 12 + 2 + 1 of 16
#elif defined(DOM2_NEON)
constexpr int MR = 5, NV = 4;  // 20 + 4 + 5 of 32: gcc loads the numbers of all rows first
#else
constexpr int MR = 3, NV = 4;  // 12 + 4 + ...: of 16, the compiler reuses the loads
#endif

// The innermost loops are functions of their own: inlined into a large one, the compiler keeps
// their sums on the stack, at half the speed.
#define DOM2_APART __attribute__((noinline))

// What a product's operands are, A on the left, B packed on the right: floats, or words of two bf16
// numbers that stand next to each other along the sum. kHalves: numbers along the sum in a word of
// B that meet a number of A each. Sums are float32 either way.
struct Fp32 {
  using A = float;
  using B = float;
  static constexpr int kHalves = 1;
  static DOM2_INLINE vf get(const float* p, int) { return load(p); }
  static DOM2_INLINE vf all(float a) { return splat(a); }
  static DOM2_INLINE vf add(vf c, vf a, vf b) { return c + a * b; }
};
#if defined(DOM2_BF16)
struct Bf16 {
  using A = uint32_t;
  using B = uint32_t;
  static constexpr int kHalves = 1;
  static DOM2_INLINE vu get(const uint32_t* p, int) { return load(p); }
  static DOM2_INLINE vu all(uint32_t a) { return splat(a); }
  static DOM2_INLINE vf add(vf c, vu a, vu b) { return dot_bf16(c, a, b); }
};
#else
// Without instructions for bf16 numbers: B takes half the bytes and is widened on its way into a
// register. The result has the bits that Fp32 gives for a B rounded beforehand.
struct KeptBf16 : Fp32 {
  using B = uint32_t;
  static constexpr int kHalves = 2;
  static DOM2_INLINE vf get(const uint32_t* p, int half) {
    return (vf)(half ? load(p) & 0xffff0000u : load(p) << 16);
  }
};
#endif

// c[m][v] += sum_k a[m, k] b[k, v]; b rows are ldb numbers (or words) apart.
template <class F, int M, int N>
DOM2_INLINE void tile(const typename F::A* a, int64_t a_row, int64_t a_k, const typename F::B* b,
                      int64_t ldb, int k, vf (&c)[M][N]) {
  int i = 0;
  const auto half = [&](int which) __attribute__((always_inline)) {
    const typename F::B* from = b;
    // Read for each half anew: words kept from one to the other push sums out of the registers.
    if (F::kHalves > 1) asm volatile("" : "+r"(from));
    decltype(F::get(b, which)) bv[N];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) bv[v] = F::get(from + v * VL, which);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const auto av = F::all(a[m * a_row + (i + which) * a_k]);
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) c[m][v] = F::add(c[m][v], av, bv[v]);
    }
  };
  for (; i < k; i += F::kHalves, b += ldb) {
    half(0);
    if constexpr (F::kHalves > 1)
      if (i + 1 < k) half(1);
  }
}

// Where a product goes: out = product + table + add, `count` columns, or out += product.
struct Store {
  float* out;
  int64_t ld;
  const float* table;  // [columns] or null
  const float* add;    // same rows and stride as out, or null
  int columns;         // columns that may be written
  bool accumulate;
};

template <class F, int M, int N>
DOM2_APART void product(const typename F::A* a, int64_t lda, const typename F::B* b, int64_t ldb,
                        int k, const Store& s, int row, int col) {
  vf c[M][N] = {};
  tile<F, M, N>(a + row * lda, lda, 1, b, ldb, k, c);
#pragma GCC unroll 8
  for (int v = 0; v < N; ++v) {
    const int at = col + v * VL, n = s.columns - at < VL ? s.columns - at : VL;
    if (n <= 0) break;
    const vf t = s.table ? load(s.table + at, n) : vf{};
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const int64_t o = (row + m) * s.ld + at;
      vf r = c[m][v] + t;
      if (s.add) r += load(s.add + o, n);
      if (s.accumulate) r += load(s.out + o, n);
      store(s.out + o, r, n);
    }
  }
}

template <class F, int M>
DOM2_INLINE void product_columns(int n, const typename F::A* a, int64_t lda, const typename F::B* b,
                                 int64_t ldb, int k, const Store& s, int row, int col) {
  switch (n) {
    case 4:
      return product<F, M, NV >= 4 ? 4 : NV>(a, lda, b, ldb, k, s, row, col);
    case 3:
      return product<F, M, NV >= 3 ? 3 : NV>(a, lda, b, ldb, k, s, row, col);
    case 2:
      return product<F, M, 2>(a, lda, b, ldb, k, s, row, col);
    default:
      return product<F, M, 1>(a, lda, b, ldb, k, s, row, col);
  }
}

// Vectors side by side for the last rows of a tile, fewer than MR: with few rows it takes more of
// them to have eight sums under way, which is what two units of four stages need; ARM's larger
// cores have four.
#if defined(DOM2_NEON)
constexpr int wide(int rows) { return rows < 3 ? 8 : NV; }
#else
constexpr int wide(int rows) { return VL == 16 ? NV : rows == 1 ? 8 : rows < 4 ? 4 : NV; }
#endif

// M rows of a whole panel, N vectors at a time, the last ones halved until they fit.
template <class F, int M, int N, class Then>
DOM2_INLINE void last_rows(const typename F::A* a, int64_t lda, const typename F::B* panel,
                           int width, int k, const Store& s, int row, int first, int j,
                           const Then& then) {
  for (; j + N * VL <= width; j += N * VL) {
    product<F, M, N>(a, lda, panel + j, width, k, s, row, first + j);
    then(row, M, first + j, N * VL);
  }
  if constexpr (N > 1)
    if (j < width) last_rows<F, M, N / 2>(a, lda, panel, width, k, s, row, first, j, then);
}

// out [rows, n] = a [rows, k] times the packed matrix, see Store. k counts numbers of A, or words.
// `then(first row, rows, first column, columns)` runs on each finished block while it is in cache.
template <class F, class Then>
DOM2_INLINE void multiply(const typename F::A* a, int64_t lda, int rows, int k, int n,
                          const typename F::B* packed, const Store& s, const Then& then) {
  const int blocks = rows / MR * MR;
  for (int first = 0; first < n; first += kPanel) {
    const int width = pad(n - first < kPanel ? n - first : kPanel);
    for (int j = 0; j < width && blocks > 0; j += NV * VL) {
      const int vectors = (width - j < NV * VL ? width - j : NV * VL) / VL;
      for (int row = 0; row < blocks; row += MR) {
        product_columns<F, MR>(vectors, a, lda, packed + j, width, k, s, row, first + j);
        then(row, MR, first + j, vectors * VL);
      }
    }
    switch (rows - blocks) {
#define DOM2_LAST(M)                                                                              \
  case M:                                                                                         \
    last_rows<F, (M < MR ? M : 1), wide(M)>(a, lda, packed, width, k, s, blocks, first, 0, then); \
    break;
      DOM2_LAST(1)
      DOM2_LAST(2)
      DOM2_LAST(3)
      DOM2_LAST(4)
      DOM2_LAST(5)
#undef DOM2_LAST
      default:
        break;
    }
    packed += static_cast<int64_t>(F::kHalves == 1 ? k : pairs(k)) * width;
  }
}

// grad [n, k_pad] += dz^T a over `rows` rows (or rows of words: pairs of rows), ldz and lda apart.
template <class F, int M, int N>
DOM2_APART void outer(const typename F::A* dz, int64_t ldz, const typename F::B* a, int64_t lda,
                      int rows, float* grad, int64_t ld) {
  vf c[M][N] = {};
  tile<F, M, N>(dz, 1, ldz, a, lda, rows, c);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) {
      float* g = grad + m * ld + v * VL;
      store(g, load(g) + c[m][v]);
    }
}

template <class F, int M>
DOM2_INLINE void outer_columns(int n, const typename F::A* dz, int64_t ldz, const typename F::B* a,
                               int64_t lda, int rows, float* grad, int64_t ld) {
  switch (n) {
    case 4:
      return outer<F, M, NV >= 4 ? 4 : NV>(dz, ldz, a, lda, rows, grad, ld);
    case 3:
      return outer<F, M, NV >= 3 ? 3 : NV>(dz, ldz, a, lda, rows, grad, ld);
    case 2:
      return outer<F, M, 2>(dz, ldz, a, lda, rows, grad, ld);
    default:
      return outer<F, M, 1>(dz, ldz, a, lda, rows, grad, ld);
  }
}

template <class F>
void weight_gradient(const typename F::A* dz, int64_t ldz, const typename F::B* a, int64_t lda,
                     int rows, int n, int k_pad, float* grad) {
  for (int col = 0; col < k_pad; col += NV * VL) {
    const int vectors = (k_pad - col < NV * VL ? k_pad - col : NV * VL) / VL;
    int row = 0;
    const auto at = [&](int r) { return grad + static_cast<int64_t>(r) * k_pad + col; };
    for (; row + MR <= n; row += MR)
      outer_columns<F, MR>(vectors, dz + row, ldz, a + col, lda, rows, at(row), k_pad);
    switch (n - row) {
      case 5:
        outer_columns<F, MR >= 5 ? 5 : 1>(vectors, dz + row, ldz, a + col, lda, rows, at(row),
                                          k_pad);
        break;
      case 4:
        outer_columns<F, MR >= 4 ? 4 : 1>(vectors, dz + row, ldz, a + col, lda, rows, at(row),
                                          k_pad);
        break;
      case 3:
        outer_columns<F, MR >= 3 ? 3 : 1>(vectors, dz + row, ldz, a + col, lda, rows, at(row),
                                          k_pad);
        break;
      case 2:
        outer_columns<F, 2>(vectors, dz + row, ldz, a + col, lda, rows, at(row), k_pad);
        break;
      case 1:
        outer_columns<F, 1>(vectors, dz + row, ldz, a + col, lda, rows, at(row), k_pad);
        break;
      default:
        break;
    }
  }
}
