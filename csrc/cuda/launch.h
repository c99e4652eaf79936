// The kernels' launches, one function each, in the .cu file of the same name. They only launch: no
// allocation, no synchronisation, no read back. Returns a cudaError_t.
#pragma once
#include <string>

#include "exec.h"

namespace dom2 {
namespace cuda {

// Empty for cudaSuccess, else "<kernel>: <CUDA's words>".
std::string failure(const char* kernel, int error);

// How `denoise` is cut into blocks.
struct Shape {
  Precision precision;
  int rows;        // of a tile: 8, 16 or 32; resident: 8 or 16
  bool resident;   // weights stay on the chip
  int64_t blocks;  // per group
  int64_t shared_bytes, scratch_floats;
};

int launch_denoise(const Forward& f, const Shape& s, void* stream);

// A weight [groups, n, k] of the caller, any strides in floats.
struct Source {
  const float* data;
  int64_t group, row, col;
};

struct Pack {
  Source source[kMaxMatrices];
  int n[kMaxMatrices], k[kMaxMatrices];  // of the packed matrix: swapped for a transpose
  int64_t first[kMaxMatrices + 1];       // first packet of each, and the end
  int matrices;
  Precision precision;
  void* out;  // [groups, first[matrices]] of 16 bytes
};

int launch_pack_weights(const Pack& p, int64_t groups, void* stream);

constexpr int kMaxFields = 256;

// One field of one agent: rows of `width` numbers, `row` numbers apart.
struct GatheredField {
  const void* data;
  int64_t row;
  float* out;  // [batch, width]
  int width;
  int8_t is_double;
  int8_t vector;  // floats that one access can take: 4, 2 or 1
};

struct Sample {
  GatheredField field[kMaxFields];   // [fields, groups]
  int64_t groups, batch, fields;     // fields of each group
  const int64_t *threshold, *alias;  // [groups, trajectories]
  const int64_t* starts;             // [trajectories + 1]
  int64_t trajectories;
  const int64_t* rng;  // (seed, offset) on the device, or null: the next two
  uint64_t seed;
  uint32_t offset;
  int64_t* index;  // [groups, batch]
};

int launch_sample_transitions(const Sample& s, void* stream);

}  // namespace cuda
}  // namespace dom2
