// CUDA's built-in functions as kernels call them: barriers, shuffles, votes, atomics, arithmetic.
#pragma once
#include <math.h>

#include <bit>
#include <type_traits>

#include "machine.h"

namespace simt::detail {

// Words that may hold parts of any type; plain loads and stores, so that sanitizers see them.
typedef uint32_t __attribute__((may_alias)) word32;
typedef uint64_t __attribute__((may_alias)) word64;

// The types that CUDA's shuffles take. Others would be converted there, and lose bits.
template <class T>
SIMT_INTERNAL inline Slot to_slot(T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  Slot slot;
  if constexpr (sizeof(T) == 4)
    slot.bits = __builtin_bit_cast(uint32_t, value);
  else
    slot.bits = __builtin_bit_cast(uint64_t, value);
  return slot;
}

template <class T>
SIMT_INTERNAL inline T from_slot(const Slot& slot) {
  if constexpr (sizeof(T) == 4)
    return __builtin_bit_cast(T, static_cast<uint32_t>(slot.bits));
  else
    return __builtin_bit_cast(T, slot.bits);
}

// `source` outside the lane's segment of `width` lanes means the lane itself.
template <class T>
SIMT_INTERNAL inline T shuffle(Op op, unsigned mask, T value, int source, int width, Site site) {
  if (width <= 0 || width > 32 || (width & (width - 1)))
    die(site, "%s: a width of %d is not a power of two up to 32", name_of(op), width);
  const int lane = static_cast<int>(own_lane()), first = lane / width * width;
  int from = lane;
  if (op == Op::shfl) from = first + (source & (width - 1));
  if (op == Op::shfl_xor && (lane ^ source) < first + width) from = lane ^ source;
  if (op == Op::shfl_down && lane + source < first + width) from = lane + source;
  if (op == Op::shfl_up && lane - source >= first) from = lane - source;
  const Slot* slots = meet_warp(op, mask, to_slot(value), site);
  if (from < 0 || from > 31 || !(mask >> from & 1))
    die(site, "%s reads lane %d, which is not in the mask %08x", name_of(op), from, mask);
  return from_slot<T>(slots[from]);
}

SIMT_INTERNAL inline unsigned ballot(Op op, unsigned mask, bool vote, Site site) {
  const Slot* slots = meet_warp(op, mask, to_slot(vote ? 1u : 0u), site);
  unsigned result = 0;
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1) result |= static_cast<unsigned>(slots[i].bits) << i;
  return result;
}

template <class T>
SIMT_INTERNAL inline T reduce(Op op, unsigned mask, T value, Site site) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
  const Slot* slots = meet_warp(op, mask, to_slot(value), site);
  unsigned sum = 0;
  T best = value;
  for (unsigned i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const T v = from_slot<T>(slots[i]);
    sum += static_cast<unsigned>(v);
    if (op == Op::min ? v < best : v > best) best = v;
  }
  return op == Op::add ? static_cast<T>(sum) : best;
}

// Atomics order nothing by themselves. After a __threadfence() they pass on what their thread has
// done, and any thread takes what was passed on to the same address: the pattern of CUDA's guide
// (write, fence, count; who counts last reads) is in order, and without its fence it is not.
template <class T, class F>
inline T atomic_update(T* address, F next) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  typedef Word __attribute__((may_alias)) Alias;
  preempt();
  Alias* word = reinterpret_cast<Alias*>(address);
  Word seen = __atomic_load_n(word, __ATOMIC_ACQUIRE), wanted;
  do {
    wanted = __builtin_bit_cast(Word, next(__builtin_bit_cast(T, seen)));
  } while (self_fenced() ? !__atomic_compare_exchange_n(word, &seen, wanted, false,
                                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
                         : !__atomic_compare_exchange_n(word, &seen, wanted, false,
                                                        __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE));
  return __builtin_bit_cast(T, seen);
}

inline float exp_float(float x) { return ::expf(x); }
inline float log_float(float x) { return ::logf(x); }
inline float rsqrt_float(float x) { return 1.0f / ::sqrtf(x); }

}  // namespace simt::detail

#define SIMT_SITE simt::detail::Site site = simt::detail::Site::here()

inline void __syncthreads(SIMT_SITE) {
  simt::detail::meet_block(simt::detail::Op::sync, false, site);
}
inline int __syncthreads_or(int predicate, SIMT_SITE) {
  return simt::detail::meet_block(simt::detail::Op::sync_or, predicate != 0, site).count > 0;
}
inline int __syncthreads_and(int predicate, SIMT_SITE) {
  const auto votes = simt::detail::meet_block(simt::detail::Op::sync_and, predicate != 0, site);
  return votes.count == votes.participants;
}
inline int __syncthreads_count(int predicate, SIMT_SITE) {
  return simt::detail::meet_block(simt::detail::Op::sync_count, predicate != 0, site).count;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE) {
  simt::detail::meet_warp(simt::detail::Op::syncwarp, mask, {}, site);
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  return simt::detail::shuffle(simt::detail::Op::shfl, mask, value, source, width, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_SITE) {
  return simt::detail::shuffle(simt::detail::Op::shfl_xor, mask, value, bits, width, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, SIMT_SITE) {
  return simt::detail::shuffle(simt::detail::Op::shfl_down, mask, value, static_cast<int>(by),
                               width, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, SIMT_SITE) {
  return simt::detail::shuffle(simt::detail::Op::shfl_up, mask, value, static_cast<int>(by), width,
                               site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::detail::ballot(simt::detail::Op::ballot, mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::detail::ballot(simt::detail::Op::any, mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
  return simt::detail::ballot(simt::detail::Op::all, mask, predicate != 0, site) == mask;
}
template <class T>
inline T __reduce_add_sync(unsigned mask, T value, SIMT_SITE) {
  return simt::detail::reduce(simt::detail::Op::add, mask, value, site);
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value, SIMT_SITE) {
  return simt::detail::reduce(simt::detail::Op::min, mask, value, site);
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value, SIMT_SITE) {
  return simt::detail::reduce(simt::detail::Op::max, mask, value, site);
}

#define SIMT_ATOMIC(NAME, T, NEXT)                                                 \
  inline T NAME(T* address, T value) {                                             \
    return simt::detail::atomic_update(address, [&](T old) -> T { return NEXT; }); \
  }
SIMT_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + value))
SIMT_ATOMIC(atomicAdd, unsigned, old + value)
SIMT_ATOMIC(atomicAdd, unsigned long long, old + value)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicMax, int, old < value ? value : old)
SIMT_ATOMIC(atomicMax, unsigned, old < value ? value : old)
SIMT_ATOMIC(atomicMax, unsigned long long, old < value ? value : old)
#undef SIMT_ATOMIC
#define SIMT_ATOMIC_CAS(T)                                                                    \
  inline T atomicCAS(T* address, T expected, T value) {                                       \
    return simt::detail::atomic_update(address,                                               \
                                       [&](T old) { return old == expected ? value : old; }); \
  }
SIMT_ATOMIC_CAS(int)
SIMT_ATOMIC_CAS(unsigned)
SIMT_ATOMIC_CAS(unsigned long long)
#undef SIMT_ATOMIC_CAS

inline void __threadfence() { simt::detail::set_fenced(); }

template <class T>
inline T __ldg(const T* address) {
  return *address;
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __fdividef(float a, float b) { return a / b; }

// Macros, because glibc's headers declare functions of these names.
#define __expf(x) simt::detail::exp_float(x)
#define __logf(x) simt::detail::log_float(x)
#define rsqrtf(x) simt::detail::rsqrt_float(x)

// CUDA's overloads, mixed signs as there.
#define SIMT_MIN_MAX(R, A, B)                                                             \
  inline R min(A a, B b) {                                                                \
    return static_cast<R>(a) < static_cast<R>(b) ? static_cast<R>(a) : static_cast<R>(b); \
  }                                                                                       \
  inline R max(A a, B b) {                                                                \
    return static_cast<R>(a) < static_cast<R>(b) ? static_cast<R>(b) : static_cast<R>(a); \
  }
SIMT_MIN_MAX(int, int, int)
SIMT_MIN_MAX(unsigned, unsigned, unsigned)
SIMT_MIN_MAX(unsigned, int, unsigned)
SIMT_MIN_MAX(unsigned, unsigned, int)
SIMT_MIN_MAX(long, long, long)
SIMT_MIN_MAX(unsigned long, unsigned long, unsigned long)
SIMT_MIN_MAX(long long, long long, long long)
SIMT_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef SIMT_MIN_MAX
inline float min(float a, float b) { return ::fminf(a, b); }
inline float max(float a, float b) { return ::fmaxf(a, b); }
inline double min(double a, double b) { return ::fmin(a, b); }
inline double max(double a, double b) { return ::fmax(a, b); }
