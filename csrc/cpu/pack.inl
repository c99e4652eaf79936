// Weights into panels: blocks of 16 x 16, so that both sides stay in cache whatever the strides.
// Part of kernels.inl, after vector.inl.

// The source of a block: `columns` weights along the panel's rows, `depth` along the sum.
struct Block {
  const float* data;
  int64_t row, col;  // strides along the panel's rows and along the sum
  int columns, depth;
};

// n <= 16 neighbours, the rest zero.
DOM2_INLINE void load16(const float* p, int n, float* to) {
  for (int i = 0; i < kAlign; i += VL)
    store(to + i, n - i >= VL ? load(p + i) : n > i ? load(p + i, n - i) : vf{});
}

DOM2_INLINE void round16(const float* from, uint16_t* to) {
  for (int i = 0; i < kAlign; i += VL) {
    const vh h = round_bf16(load(from + i));
    __builtin_memcpy(to + i, &h, sizeof h);
  }
}

// to[i][j] = from[j][i], words of 32 bits; rows of `to` are ld words apart, the first n are wanted.
void transpose16(const uint32_t (&from)[16][16], uint32_t* to, int64_t ld, int n) {
#if DOM2_VL == 16
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    const __m512 a = (__m512)load(from[i]), b = (__m512)load(from[i + 1]);
    t[i] = _mm512_unpacklo_ps(a, b);
    t[i + 1] = _mm512_unpackhi_ps(a, b);
  }
  for (int i = 0; i < 16; i += 4)  // u[i + c], lane l: column 4 l + c of rows i to i + 3
    for (int c = 0; c < 4; ++c) {
      const __m512d a = (__m512d)t[i + c / 2], b = (__m512d)t[i + c / 2 + 2];
      u[i + c] = (__m512)(c % 2 ? _mm512_unpackhi_pd(a, b) : _mm512_unpacklo_pd(a, b));
    }
  for (int c = 0; c < 4; ++c) {
    const __m512 even0 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88),
                 even1 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88),
                 odd0 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd),
                 odd1 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
    if (c < n) store(to + c * ld, (vu)_mm512_shuffle_f32x4(even0, even1, 0x88));
    if (4 + c < n) store(to + (4 + c) * ld, (vu)_mm512_shuffle_f32x4(odd0, odd1, 0x88));
    if (8 + c < n) store(to + (8 + c) * ld, (vu)_mm512_shuffle_f32x4(even0, even1, 0xdd));
    if (12 + c < n) store(to + (12 + c) * ld, (vu)_mm512_shuffle_f32x4(odd0, odd1, 0xdd));
  }
#elif defined(DOM2_NEON)
  for (int i = 0; i < n; i += 4)
    for (int j = 0; j < 16; j += 4) {
      const uint32x4_t a = vld1q_u32(from[j] + i), b = vld1q_u32(from[j + 1] + i),
                       c = vld1q_u32(from[j + 2] + i), d = vld1q_u32(from[j + 3] + i);
      const uint64x2_t ab[2] = {(uint64x2_t)vtrn1q_u32(a, b), (uint64x2_t)vtrn2q_u32(a, b)},
                       cd[2] = {(uint64x2_t)vtrn1q_u32(c, d), (uint64x2_t)vtrn2q_u32(c, d)};
      for (int l = 0; l < 4 && i + l < n; ++l) {
        const uint64x2_t row = l < 2 ? vtrn1q_u64(ab[l], cd[l]) : vtrn2q_u64(ab[l - 2], cd[l - 2]);
        vst1q_u32(to + (i + l) * ld + j, (uint32x4_t)row);
      }
    }
#else
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < 16; ++j) to[i * ld + j] = from[j][i];
#endif
}

// Row j of the block, 16 weights along the sum from `at` on, zero beyond its end.
DOM2_INLINE void along(const Block& b, int j, int at, float* to) {
  const float* p = b.data + j * b.row + at * b.col;
  const int n = b.depth - at < kAlign ? b.depth - at : kAlign;
  if (j >= b.columns || n <= 0) return load16(p, 0, to);
  if (b.col == 1) return load16(p, n, to);
  for (int i = 0; i < kAlign; ++i) to[i] = i < n ? p[i * b.col] : 0.f;
}

// Up to 16 rows of a panel, `width` words each.
void pack_full(const Block& b, float* to, int width) {
  if (b.row == 1) {
    for (int i = 0; i < b.depth; ++i) load16(b.data + i * b.col, b.columns, to + i * width);
    return;
  }
  alignas(64) uint32_t block[16][16];
  for (int j = 0; j < 16; ++j) along(b, j, 0, reinterpret_cast<float*>(block[j]));
  transpose16(block, reinterpret_cast<uint32_t*>(to), width, b.depth);
}

// The same for up to 32 weights along the sum, two to a word.
void pack_pairs(const Block& b, uint32_t* to, int width) {
  alignas(64) float one[16], other[16];
  if (b.row == 1) {
    for (int i = 0; i < b.depth; i += 2) {
      load16(b.data + i * b.col, b.columns, one);
      load16(b.data + (i + 1) * b.col, i + 1 < b.depth ? b.columns : 0, other);
      for (int j = 0; j < 16; j += VL)
        store(to + i / 2 * width + j, pair_bf16(load(one + j), load(other + j)));
    }
    return;
  }
  alignas(64) uint32_t block[16][16];
  for (int j = 0; j < 16; ++j) {
    uint16_t* words = reinterpret_cast<uint16_t*>(block[j]);
    along(b, j, 0, one);
    along(b, j, 16, other);
    round16(one, words);
    round16(other, words + 16);
  }
  transpose16(block, to, width, pairs(b.depth));
}

void pack(const Matrix& m, int n, int k, bool bf16, float* out) {
  const int step = bf16 ? 32 : 16;
  for (int first = 0; first < n; first += kPanel) {
    const int used = n - first < kPanel ? n - first : kPanel, width = pad(used);
    for (int k0 = 0; k0 < k; k0 += step)
      for (int j0 = 0; j0 < width; j0 += 16) {
        const Block b{m.data + (first + j0) * m.row + k0 * m.col, m.row, m.col,
                      used - j0 < 16 ? used - j0 : 16, k - k0 < step ? k - k0 : step};
        float* to = out + static_cast<int64_t>(bf16 ? k0 / 2 : k0) * width + j0;
        if (bf16)
          pack_pairs(b, reinterpret_cast<uint32_t*>(to), width);
        else
          pack_full(b, to, width);
      }
    out += static_cast<int64_t>(bf16 ? pairs(k) : k) * width;
  }
}
