// The CUDA executors as a caller sees them: host functions, free of torch and of CUDA headers.
// Each returns an empty string, or what is wrong. What runs is launched in `stream` and not waited
// for; memory comes from `allocate`, before the first launch.
#pragma once
#include <functional>
#include <string>

#include "../core/plan.h"
#include "launch.h"

namespace dom2 {
namespace cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the executors need to know of a card.
struct Device {
  int multiprocessors = 0, major = 0, minor = 0;
  int64_t shared_bytes = 0;  // that one block can have
};

struct Context {
  Device device;
  void* stream = nullptr;                        // a cudaStream_t
  std::function<void*(int64_t bytes)> allocate;  // device memory, kept until the stream is done
};

// The card `index`, asked once.
std::string find_device(int index, Device& out);

// Lays a program out for the kernels, forward or backward.
std::string make_code(const Program& program, const Plan& plan, Precision precision, bool backward,
                      Code& out);

// Packs weights for `code`; `transposed` for backward. out: [groups, packets or packets_t] packets.
std::string pack_weights(const Context& context, const Code& code, Precision precision,
                         const Source* weights, int64_t groups, bool transposed, void* out);

// The loop. solver: [steps, kSolverColumns] in host memory, or null for one pass without a solver.
std::string denoise(const Context& context, const Code& code, Precision precision, const Data& data,
                    const double* solver, double out_low, double out_high);

// What backward adds to Data. Gradients are null where not wanted.
struct Gradients {
  const float* path;      // what the forward call wrote; x where there is no solver
  const float* grad_out;  // [G, B, x_width or out_width]
  const void* packed_t;   // [G, packets_t] of 16 bytes
  float* x;               // [G, B, x_width]
  float* cond;            // [G, B, cond_width], not yet summed over `repeat`
  float* weights;         // one [G, N, K] block after the other
  float* table;           // [S, G, table_width]
};

// Rows and steps are cut into as many launches as `workspace_bytes` asks for, but for what one tile
// of rows and one step need.
constexpr int64_t kWorkspaceBytes = int64_t{128} << 20;

// Bit-equal from run to run: all sums have a fixed order, on cards of the same kind.
std::string denoise_backward(const Context& context, const Code& code, Precision precision,
                             const Data& data, const double* solver, double out_low,
                             double out_high, const Gradients& gradients,
                             int64_t workspace_bytes = kWorkspaceBytes);

}  // namespace cuda
}  // namespace dom2
