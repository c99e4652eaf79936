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
CpuCall cpu_call(const Arguments& a, bool backward, bool half, double out_low, double out_high);

// Packs every weight of every group; `transposed` for backward.
void pack_all(const std::vector<Tensor>& weights, const Exec& e, int64_t groups, bool transposed,
              bool half, float* out);

// The gradients of one call whose data is checked; `denoise` and `run_program` share it.
// grad_weights is flat: one [G, N, K] block per weight, in order. Unwanted ones are empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> run_backward(const Program& p, const Plan& plan,
                                                        cpu::Call& call, const Tensor& grad_out,
                                                        const std::vector<Tensor>& weights,
                                                        bool need_x, bool need_rows,
                                                        bool need_weights, bool need_table);

}  // namespace ops
}  // namespace dom2
