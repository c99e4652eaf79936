// Matrix products of a block: [rows of the batch] x [weights], one warp per tile of features.
//
// The batch is the narrow side of the product (8, 16 or 32 rows), so that one row wastes 7/8 of a
// tensor-core instruction and not 63/64. Weights come in packets (exec.h) from a ring in shared
// memory that cp.async fills, from resident shared memory, or from registers. Every lane reads just
// the packets that it copied itself, so that the ring needs no barrier, only its own waits.
// Each output is one sum in a fixed order, whatever the batch: rows are bit-equal in any batch.
#pragma once
#include "device.h"
#include "exec.h"

namespace dom2 {
namespace cuda {

__device__ __forceinline__ int lane_id() { return threadIdx.x % kWarp; }
__device__ __forceinline__ int warp_id() { return threadIdx.x / kWarp; }

// bf16 tensor cores, float32 sums. D[feature, row] += W[feature, k] * a[k, row], 16 x 8 x 16.
struct Bf16 {
  static constexpr Precision kPrecision = Precision::kBf16;
  static constexpr int kFeatures = 16, kDepth = 16;
  static constexpr int kTiles = packing(kPrecision).tiles;
  template <int R>
  static constexpr int kElements = R / 2;  // results that one lane holds of a tile

  __device__ static int row(int e) { return e / 4 * 8 + lane_id() % 4 * 2 + e % 2; }
  __device__ static int feature(int e) { return lane_id() / 4 + e % 4 / 2 * 8; }

  template <int R>
  __device__ static __forceinline__ void multiply(float (&acc)[kTiles][kElements<R>],
                                                  const uint4 (&w)[kTiles], const float* a, int ld,
                                                  int k0, int k, bool aligned) {
    const int g = lane_id() / 4, c = k0 + lane_id() % 4 * 2;
    const bool wide = aligned && k0 + kDepth <= k;
#pragma unroll
    for (int j = 0; j < R / 8; ++j) {
      const float* p = a + (j * 8 + g) * ld + c;
      uint32_t b[2];
      if (wide) {
        const float2 low = load8<float2>(p), high = load8<float2>(p + 8);
        b[0] = pack_bf16(low.x, low.y);
        b[1] = pack_bf16(high.x, high.y);
      } else {  // what lies beyond the slice may be anything, so that zero weights don't help
        b[0] = pack_bf16(c < k ? p[0] : 0.f, c + 1 < k ? p[1] : 0.f);
        b[1] = pack_bf16(c + 8 < k ? p[8] : 0.f, c + 9 < k ? p[9] : 0.f);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t wa[4] = {w[t].x, w[t].y, w[t].z, w[t].w};
        float (&d)[4] = reinterpret_cast<float (&)[4]>(acc[t][j * 4]);
        mma_bf16(d, wa, b);
      }
    }
  }
};

// float32 throughout, on the ordinary cores.
struct Fp32 {
  static constexpr Precision kPrecision = Precision::kFp32;
  static constexpr int kFeatures = 32, kDepth = 4;
  static constexpr int kTiles = packing(kPrecision).tiles;
  template <int R>
  static constexpr int kElements = R;

  __device__ static int row(int e) { return e; }
  __device__ static int feature(int) { return lane_id(); }

  template <int R>
  __device__ static __forceinline__ void multiply(float (&acc)[kTiles][kElements<R>],
                                                  const uint4 (&w)[kTiles], const float* a, int ld,
                                                  int k0, int k, bool aligned) {
    const bool wide = aligned && k0 + kDepth <= k;
    const float w0 = __uint_as_float(w[0].x), w1 = __uint_as_float(w[0].y),
                w2 = __uint_as_float(w[0].z), w3 = __uint_as_float(w[0].w);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float* p = a + r * ld + k0;
      float4 x;
      if (wide) {
        x = load16<float4>(p);
      } else {
        x = make_float4(p[0], k0 + 1 < k ? p[1] : 0.f, k0 + 2 < k ? p[2] : 0.f,
                        k0 + 3 < k ? p[3] : 0.f);
      }
      float s = acc[0][r];
      s = fmaf(w0, x.x, s);
      s = fmaf(w1, x.y, s);
      s = fmaf(w2, x.z, s);
      acc[0][r] = fmaf(w3, x.w, s);
    }
  }
};

// One matrix, or its transpose, as a product reads it.
struct Operand {
  int n, k, tiles, packets;
  const uint4*
      data;  // in global memory; lane l of packet q of tile t is (t * packets + q) * 32 + l
};

// Tiles that one warp computes at once lie kWarps apart.
template <class M, int R>
struct Sums {
  float v[M::kTiles][M::template kElements<R>];
};

// Through the ring: kStages - 1 packets are under way while one is multiplied.
template <class M, int R, int kStages>
__device__ __forceinline__ void multiply_streamed(Sums<M, R>& sums, const Operand& w, int tile,
                                                  const float* a, int ld, bool aligned,
                                                  uint4* ring) {
  const auto slot = [&](int q, int t) {
    return ring + (q % kStages * M::kTiles + t) * kThreads + threadIdx.x;
  };
  const auto issue = [&](int q) {
    if (q < w.packets) {
#pragma unroll
      for (int t = 0; t < M::kTiles; ++t) {
        const int at = tile + t * kWarps;
        if (at < w.tiles)
          cp_async16(slot(q, t), w.data + (int64_t{at} * w.packets + q) * kWarp + lane_id());
      }
    }
    cp_async_commit();  // also where there is nothing left, so that the waits can count
  };
  for (int q = 0; q < kStages - 1; ++q) issue(q);
  for (int q = 0; q < w.packets; ++q) {
    cp_async_wait<kStages - 2>();
    uint4 packet[M::kTiles];
#pragma unroll
    for (int t = 0; t < M::kTiles; ++t)
      packet[t] = tile + t * kWarps < w.tiles ? load16<uint4>(slot(q, t)) : make_uint4(0, 0, 0, 0);
    M::template multiply<R>(sums.v, packet, a, ld, q * M::kDepth, w.k, aligned);
    issue(q + kStages - 1);
  }
}

// From shared memory, where the matrix stays for the whole loop.
template <class M, int R>
__device__ __forceinline__ void multiply_shared(Sums<M, R>& sums, const Operand& w, int tile,
                                                const float* a, int ld, bool aligned,
                                                const uint4* resident) {
  for (int q = 0; q < w.packets; ++q) {
    uint4 packet[M::kTiles];
#pragma unroll
    for (int t = 0; t < M::kTiles; ++t) {
      const int at = tile + t * kWarps;
      packet[t] = at < w.tiles ? load16<uint4>(resident + (at * w.packets + q) * kWarp + lane_id())
                               : make_uint4(0, 0, 0, 0);
    }
    M::template multiply<R>(sums.v, packet, a, ld, q * M::kDepth, w.k, aligned);
  }
}

// One bf16 matrix in registers.
struct Held {
  static_assert(kHeldTiles == kWarps * Bf16::kTiles, "each warp holds the tiles that it computes");
  static constexpr int kPackets = kHeldPackets;
  uint4 packet[Bf16::kTiles][kPackets];

  __device__ __forceinline__ void load(const Operand& w) {
#pragma unroll
    for (int t = 0; t < Bf16::kTiles; ++t)
#pragma unroll
      for (int q = 0; q < kPackets; ++q) {
        const int at = warp_id() + t * kWarps;
        packet[t][q] = at < w.tiles && q < w.packets
                           ? load16_global<uint4>(w.data + (at * w.packets + q) * kWarp + lane_id())
                           : make_uint4(0, 0, 0, 0);
      }
  }

  template <int R>
  __device__ __forceinline__ void multiply(Sums<Bf16, R>& sums, const Operand& w, const float* a,
                                           int ld, bool aligned) const {
#pragma unroll
    for (int q = 0; q < kPackets; ++q) {
      if (q >= w.packets) break;
      const uint4 both[Bf16::kTiles] = {packet[0][q], packet[1][q]};
      Bf16::multiply<R>(sums.v, both, a, ld, q * Bf16::kDepth, w.k, aligned);
    }
  }
};

}  // namespace cuda
}  // namespace dom2
