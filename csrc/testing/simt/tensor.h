// What device.h wraps from PTX: cp.async, the tensor core's mma, wide loads and stores.
#pragma once
#include "builtins.h"
#include "schedule.h"

namespace simt::detail {

inline void check_aligned(const void* address, size_t bytes, const char* what, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes)
    die(site, "%s: address %p is not a multiple of %zu", what, address, bytes);
}

template <class T>
inline T load_wide(const void* from, const char* what, Site site) {
  check_aligned(from, sizeof(T), what, site);
  const word64* words = static_cast<const word64*>(from);
  struct alignas(sizeof(T)) {
    uint64_t w[sizeof(T) / 8];
  } raw;
  for (size_t i = 0; i < sizeof(T) / 8; ++i) raw.w[i] = words[i];
  return __builtin_bit_cast(T, raw);
}

template <class T>
inline void store_wide(void* to, const T& value, const char* what, Site site) {
  check_aligned(to, sizeof(T), what, site);
  struct alignas(sizeof(T)) Raw {
    uint64_t w[sizeof(T) / 8];
  };
  const Raw raw = __builtin_bit_cast(Raw, value);
  word64* words = static_cast<word64*>(to);
  for (size_t i = 0; i < sizeof(T) / 8; ++i) words[i] = raw.w[i];
}

SIMT_INTERNAL inline Copy& push_copy(Site site) {
  Fiber& f = self();
  if (f.pending == kMaxCopies)
    die(site, "cp.async: a thread has more than %d copies pending", kMaxCopies);
  return f.copies[f.pending++];
}

// The destination is NaN until the wait, so that nobody can use it before. The accesses of the
// kernel's memory are in plain functions, for the sanitizers to see; the book-keeping isn't.
SIMT_INTERNAL inline void record_copy(void* to, const void* from, uint32_t bytes, bool valid,
                                      const uint32_t (&before)[4], Site site) {
  Copy& c = push_copy(site);
  c.to = static_cast<unsigned char*>(to);
  c.from = static_cast<const unsigned char*>(from);
  c.bytes = bytes;
  c.group = -1;
  c.zero = !valid;
  c.site = site;
  for (int i = 0; i < 4; ++i) c.before[i] = before[i];
}

inline void read_words(const void* from, uint32_t bytes, uint32_t (&words)[4]) {
  for (uint32_t i = 0; i < bytes / 4; ++i) words[i] = static_cast<const word32*>(from)[i];
}

inline void write_words(void* to, uint32_t bytes, const uint32_t (&words)[4]) {
  for (uint32_t i = 0; i < bytes / 4; ++i) static_cast<word32*>(to)[i] = words[i];
}

inline void issue_copy(void* to, const void* from, uint32_t bytes, bool valid, Site site) {
  check_aligned(to, bytes, "cp.async to", site);
  check_aligned(from, bytes, "cp.async from", site);
  uint32_t words[4] = {0, 0, 0, 0};
  if (valid) read_words(from, bytes, words);
  record_copy(to, from, bytes, valid, words, site);
  const uint32_t nan[4] = {~0u, ~0u, ~0u, ~0u};
  write_words(to, bytes, nan);
}

inline void land_copy(const unsigned char* from, unsigned char* to, uint32_t bytes, bool zero,
                      const uint32_t (&before)[4], Site site) {
  uint32_t words[4] = {0, 0, 0, 0};
  read_words(to, bytes, words);
  for (uint32_t i = 0; i < bytes / 4; ++i)
    if (words[i] != ~0u) die(site, "cp.async: the destination was written before the wait");
  for (uint32_t& w : words) w = 0;
  if (!zero) read_words(from, bytes, words);
  for (uint32_t i = 0; i < bytes / 4; ++i)
    if (words[i] != before[i]) die(site, "cp.async: the source was overwritten before the wait");
  write_words(to, bytes, words);
}

SIMT_INTERNAL inline void commit_copies() {
  Fiber& f = self();
  for (int i = 0; i < f.pending; ++i)
    if (f.copies[i].group < 0) f.copies[i].group = f.groups;
  ++f.groups;
}

SIMT_INTERNAL inline void wait_copies(int newest_allowed) {
  Fiber& f = self();
  int kept = 0;
  for (int i = 0; i < f.pending; ++i) {
    const Copy& c = f.copies[i];
    if (c.group >= 0 && c.group < f.groups - newest_allowed)
      land_copy(c.from, c.to, c.bytes, c.zero, c.before, c.site);
    else
      f.copies[kept++] = c;
  }
  f.pending = kept;
}

SIMT_INTERNAL inline float bf16_half(uint32_t pair, int half) {
  return __builtin_bit_cast(float, half ? pair & 0xffff0000u : pair << 16);
}

// mma.m16n8k16, row.col. With g = lane / 4 and t = lane % 4 a lane holds
//   A (16x16): rows g (a[0], a[2]) and g + 8 (a[1], a[3]); columns 2t, 2t+1 (a[0], a[1]) and
//              2t+8, 2t+9 (a[2], a[3]), the lower column in the lower half;
//   B (16x8):  column g; rows 2t, 2t+1 (b[0]) and 2t+8, 2t+9 (b[1]);
//   C (16x8):  rows g (c[0], c[1]) and g + 8 (c[2], c[3]); columns 2t, 2t+1.
// Sums here are exact to double precision and rounded once; the hardware truncates on the way.
SIMT_INTERNAL inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              Site site) {
  Slot mine;
  for (int i = 0; i < 8; ++i) mine.values[i] = bf16_half(a[i / 2], i & 1);
  for (int i = 0; i < 4; ++i) mine.values[8 + i] = bf16_half(b[i / 2], i & 1);
  const Slot* slots = meet_warp(Op::mma, 0xffffffffu, mine, site);
  const unsigned g = own_lane() / 4, t = own_lane() % 4;
  double sum[4] = {d[0], d[1], d[2], d[3]};
  for (unsigned k = 0; k < 16; ++k) {
    const unsigned high = k / 8, low = k & 1, column = k % 8 / 2;
    const float* from_a = slots[4 * g + column].values + 4 * high + low;
    const double upper = from_a[0], lower = from_a[2];
    const double left = slots[8 * t + column].values[8 + 2 * high + low];
    const double right = slots[8 * t + 4 + column].values[8 + 2 * high + low];
    sum[0] += upper * left;
    sum[1] += upper * right;
    sum[2] += lower * left;
    sum[3] += lower * right;
  }
  for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(sum[i]);
}

// To nearest, ties to even; NaN to 0x7fff, as cvt.rn.bf16x2.f32 does.
inline uint32_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

}  // namespace simt::detail

// The device functions of csrc/cuda/device.h; what they mean on a GPU is written there.
namespace dom2::cuda {

inline void cp_async16(void* shared, const void* global, SIMT_SITE) {
  simt::detail::issue_copy(shared, global, 16, true, site);
}
inline void cp_async16_zero(void* shared, const void* global, bool valid, SIMT_SITE) {
  simt::detail::issue_copy(shared, global, 16, valid, site);
}
inline void cp_async4(void* shared, const void* global, SIMT_SITE) {
  simt::detail::issue_copy(shared, global, 4, true, site);
}
inline void cp_async_commit() { simt::detail::commit_copies(); }
template <int N>
inline void cp_async_wait() {
  static_assert(N >= 0);
  simt::detail::wait_copies(N);
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_SITE) {
  simt::detail::mma(d, a, b, site);
}

inline uint32_t pack_bf16(float lo, float hi) {
  return simt::detail::to_bf16(lo) | simt::detail::to_bf16(hi) << 16;
}

#define SIMT_WIDE(BYTES)                                                    \
  template <class T>                                                        \
  inline T load##BYTES(const void* from, SIMT_SITE) {                       \
    static_assert(sizeof(T) == BYTES);                                      \
    return simt::detail::load_wide<T>(from, "load" #BYTES, site);           \
  }                                                                         \
  template <class T>                                                        \
  inline T load##BYTES##_global(const void* from, SIMT_SITE) {              \
    static_assert(sizeof(T) == BYTES);                                      \
    return simt::detail::load_wide<T>(from, "load" #BYTES "_global", site); \
  }                                                                         \
  template <class T>                                                        \
  inline void store##BYTES(void* to, const T& value, SIMT_SITE) {           \
    static_assert(sizeof(T) == BYTES);                                      \
    simt::detail::store_wide<T>(to, value, "store" #BYTES, site);           \
  }
SIMT_WIDE(16)
SIMT_WIDE(8)
#undef SIMT_WIDE

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t /*stream*/, A&&... args) {
  return simt::launch(kernel, grid, block, shared_bytes, std::forward<A>(args)...);
}

}  // namespace dom2::cuda
