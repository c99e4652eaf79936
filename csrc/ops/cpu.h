// What the CPU implementations share: the thread pool, packed weights, the executors' arguments.
#pragma once
#include "../cpu/run.h"
#include "common.h"

namespace dom2 {
namespace ops {

cpu::Threads threads();

// A call's data for the executors, with the memory it needs.
struct CpuCall {
  std::vector<float> padded;  // the table
  cpu::Call call{};
};
CpuCall cpu_call(const Arguments& a, bool backward, bool bf16, double out_low, double out_high);

// Packs every weight of every group; `transposed` for backward.
void pack_all(const std::vector<Tensor>& weights, const Exec& e, int64_t groups, bool transposed,
              bool bf16, float* out);

// Weights packed in both directions, and room for the gradients that are asked for. Sets
// call.packed. `weights` is flat: one [G, N, K] block per weight, in order; unwanted ones are
// empty.
struct Differentiated {
  Tensor x, cond, weights, table;
  cpu::BackwardCall call{};
  cpu::Gradients out{};
};
Differentiated differentiated(const Program& p, const Plan& plan, cpu::Call& call,
                              const std::vector<Tensor>& weights, const Needs& needs);

// The gradients of one call whose data is checked; `denoise` and `run_program` share it.
std::tuple<Tensor, Tensor, Tensor, Tensor> run_backward(const Program& p, const Plan& plan,
                                                        cpu::Call& call, const float* path,
                                                        const Tensor& grad_out,
                                                        const std::vector<Tensor>& weights,
                                                        const Needs& needs);

}  // namespace ops
}  // namespace dom2
