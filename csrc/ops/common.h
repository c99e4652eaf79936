// What all ops share: argument checks that name the argument, the thread pool, decoded programs.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../cpu/run.h"

namespace dom2 {
namespace ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

// "[3, 256, 2]"
std::string shape_text(const Tensor& t);

// Checks device, dtype and shape (-1: any size) and returns `t` contiguous.
Tensor checked(const Tensor& t, const char* op, const char* name, ScalarType dtype,
               const Shape& shape);

// (seed, offset) of an int64 [2] CPU tensor.
struct Seed {
  uint64_t seed = 0;
  uint32_t offset = 0;
};
Seed checked_seed(const std::optional<Tensor>& rng, bool needed, const char* op, const char* why);

// Uninitialised, contiguous, on the CPU; float32 or int64.
Tensor empty(const Shape& shape, ScalarType dtype = ScalarType::Float);

cpu::Threads threads();

// A program with its two layouts; kept per thread, so that decoding costs a comparison.
struct Compiled {
  std::vector<int64_t> words;
  Program program;
  std::optional<Plan> forward, backward;
};
const Compiled& compiled(const Tensor& program, const char* op);

// Checks weights [G, N, K] against the program. They may be strided.
void check_weights(const std::vector<Tensor>& weights, const Program& p, int64_t groups,
                   const char* op);

// Checks the row vectors [G, B / repeat, width] and enters them into `call`; returns what keeps
// their memory alive.
std::optional<Tensor> check_rows(const std::optional<Tensor>& rows, const Program& p,
                                 int64_t groups, int64_t batch, const char* op, cpu::Call& call);

// Packs every weight of every group; `transposed` for backward.
void pack_all(const std::vector<Tensor>& weights, const Exec& e, int64_t groups, bool transposed,
              float* out);

// The gradients of one call whose data is checked; `denoise` and `run_program` share it.
// grad_weights is flat: one [G, N, K] block per weight, in order. Unwanted ones are empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> run_backward(const Program& p, const Plan& plan,
                                                        cpu::Call& call, const Tensor& grad_out,
                                                        const std::vector<Tensor>& weights,
                                                        bool need_x, bool need_rows,
                                                        bool need_weights, bool need_table);

}  // namespace ops
}  // namespace dom2
