// What all ops share: argument checks that name the argument, the thread pool, decoded programs.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../core/plan.h"
#include "../cuda/exec.h"

// The namespace in torch.ops. Tests build the CUDA implementations, emulated, under another.
#if !defined(DOM2_OPS)
#define DOM2_OPS dom2_fast
#endif

namespace dom2 {
namespace ops {

// The emulated executors of the tests take the CPU's memory for a device's.
#if defined(DOM2_SIMT)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

// "[3, 256, 2]"
std::string shape_text(const Tensor& t);

// A device, as torch numbers them. The ops of one call want all their tensors in one place; small
// control tensors (program, solver) are always on the CPU.
struct Place {
  int32_t type, index;
  bool operator==(const Place& o) const { return type == o.type && index == o.index; }
};
Place cpu_place();
Place place_of(const Tensor& t);

// Checks device, dtype and shape (-1: any size) and returns `t` contiguous.
Tensor checked(const Tensor& t, const char* op, const char* name, ScalarType dtype,
               const Shape& shape, const Place& place);
// The device alone.
void check_place(const Tensor& t, const char* op, const std::string& name, const Place& place);

// (seed, offset): an int64 [2] CPU tensor, read now, or one on the device, read by the kernel.
struct Seed {
  uint64_t seed = 0;
  uint32_t offset = 0;
  std::optional<Tensor> on_device;
};
Seed checked_seed(const std::optional<Tensor>& rng, bool needed, const char* op, const char* why,
                  const Place& place);

// Uninitialised and contiguous; float32 or int64.
Tensor empty(const Shape& shape, const Place& place, ScalarType dtype = ScalarType::Float);

// A program with its two layouts; kept per thread, so that decoding costs a comparison.
struct Compiled {
  std::vector<int64_t> words;
  Program program;
  std::optional<Plan> forward, backward;
  // For the CUDA executors, by precision and direction; made when first asked for.
  mutable std::unique_ptr<cuda::Code> code[2][2];
};
const Compiled& compiled(const Tensor& program, const char* op);

// Checks weights [G, N, K] against the program. They may be strided.
void check_weights(const std::vector<Tensor>& weights, const Program& p, int64_t groups,
                   const char* op, const Place& place);

// What forward and backward of `denoise` and `run_program` share, checked and contiguous.
struct Arguments {
  const Compiled* compiled;
  Place place;
  int64_t groups, batch, steps, repeat = 1;  // repeat: rows of x that one condition vector serves
  std::optional<Tensor> cond, table, solver, noise;
  Seed seed;

  const Program& program() const { return compiled->program; }
  const float* cond_data() const { return cond ? cond->const_data_ptr<float>() : nullptr; }
  const float* noise_data() const { return noise ? noise->const_data_ptr<float>() : nullptr; }
};

// The condition vectors [G, B / repeat, width] and `repeat`, of arguments that know groups and
// batch.
void check_cond(const std::optional<Tensor>& cond, const char* op, Arguments& a);

Arguments check_denoise(const char* op, const std::optional<Tensor>& cond, const Tensor& table,
                        const Tensor& program, const Tensor& solver,
                        const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
                        bool draws_x, int64_t batch);

struct Input {
  Arguments arguments;
  Tensor x;
};
Input check_program(const char* op, const Tensor& x, const std::optional<Tensor>& cond,
                    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
                    const std::optional<Tensor>& rng);

// True for bf16 (1), false for fp32 (0).
bool check_precision(const char* op, int64_t precision);

// The arguments that only tell what comes back: [B, A], checked in two steps around the program.
void check_size(const char* op, const std::vector<int64_t>& size);
void check_width(const char* op, const std::vector<int64_t>& size, int64_t x_width);
void check_out_width(const char* op, int64_t given, int64_t width);

}  // namespace ops
}  // namespace dom2
