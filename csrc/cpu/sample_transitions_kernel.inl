// The CPU executor of `sample_transitions`: draw, then gather every field of the drawn row.
// Part of kernels.inl.

constexpr int kLanes = 16;  // blocks of random words made together
// Rows fetched while the ones before are copied: a draw misses every cache and the page table's.
constexpr int kAhead = 32;

// philox() for kLanes consecutive blocks, written so that the compiler makes vectors of it.
void philox_lanes(const Rng& rng, uint32_t stream, uint64_t first, uint32_t (&out)[4][kLanes]) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    c0[i] = static_cast<uint32_t>(first + i);
    c1[i] = static_cast<uint32_t>((first + i) >> 32);
    c2[i] = stream;
    c3[i] = rng.offset;
  }
  uint32_t k0 = static_cast<uint32_t>(rng.seed), k1 = static_cast<uint32_t>(rng.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[i], p1 = uint64_t{0xCD9E8D57u} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kLanes; ++i) {
    out[0][i] = c0[i];
    out[1][i] = c1[i];
    out[2][i] = c2[i];
    out[3][i] = c3[i];
  }
}

DOM2_INLINE void copy_row(const float* in, float* out, int64_t width) {
  if (width < VL) {
    for (int64_t j = 0; j < width; ++j) out[j] = in[j];
    return;
  }
  for (int64_t j = 0; j + VL < width; j += VL) store(out + j, load(in + j));
  store(out + width - VL, load(in + width - VL));  // overlaps: nothing beyond the row is touched
}

DOM2_INLINE void copy_row(const double* in, float* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = static_cast<float>(in[j]);
}

template <class T>
void gather(const Field& f, const int64_t* index, int64_t row, int64_t count) {
  const T* data = static_cast<const T*>(f.data);
  float* out = f.out + row * f.width;
  if (f.width == 1) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(data[index[i] * f.row]);
    return;
  }
  for (int64_t i = 0; i < count; ++i, out += f.width)
    copy_row(data + index[i] * f.row, out, f.width);
}

DOM2_INLINE void fetch(const Field& f, int64_t row) {
  const int64_t size = f.is_double ? 8 : 4;
  const char* p = static_cast<const char*>(f.data) + row * f.row * size;
  const char* last = p + f.width * size - 1;
  for (; p < last; p += 64) __builtin_prefetch(p);
  __builtin_prefetch(last);  // a row rarely starts where a cache line does
}

void sample(const SampleCall& c, int64_t group, int64_t row, int64_t count) {
  const AliasTable table{c.threshold + group * c.trajectories, c.alias + group * c.trajectories,
                         c.starts, c.trajectories};
  const Rng rng{c.seed, c.offset};
  int64_t* index = c.index + group * c.batch;
  for (int64_t b = row; b < row + count; b += kLanes) {
    uint32_t words[4][kLanes];
    philox_lanes(rng, kStreamSample, static_cast<uint64_t>(group * c.batch + b), words);
    for (int i = 0; i < kLanes && b + i < row + count; ++i) {
      const uint32_t w[4] = {words[0][i], words[1][i], words[2][i], words[3][i]};
      index[b + i] = draw(table, w);
    }
  }
  const auto fetch_all = [&](int64_t from) {
    const int64_t end = from + kAhead < row + count ? from + kAhead : row + count;
    for (int64_t b = from; b < end; ++b)
      for (int64_t f = 0; f < c.fields; ++f) fetch(c.field[f * c.groups + group], index[b]);
  };
  fetch_all(row);
  for (int64_t b = row; b < row + count; b += kAhead) {
    const int64_t n = row + count - b < kAhead ? row + count - b : kAhead;
    fetch_all(b + kAhead);
    for (int64_t f = 0; f < c.fields; ++f) {
      const Field& field = c.field[f * c.groups + group];
      if (field.is_double)
        gather<double>(field, index + b, b, n);
      else
        gather<float>(field, index + b, b, n);
    }
  }
}
