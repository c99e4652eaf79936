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

// The condition vectors [groups, rows, width]; none where the program reads none. rows: -1 for any.
std::optional<Tensor> checked_cond(const std::optional<Tensor>& cond, const char* op,
                                   const Program& p, int64_t groups, int64_t rows,
                                   const Place& place);
// The same, [G, B / repeat, width], and `repeat`, of arguments that know groups and batch.
void check_cond(const std::optional<Tensor>& cond, const char* op, Arguments& a);

Arguments check_denoise(const char* op, const std::optional<Tensor>& cond, const Tensor& table,
                        const Tensor& program, const Tensor& solver,
                        const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
                        bool draws_x, int64_t batch);

// What a denoising loop starts from, checked: its weights too, unless they come packed; size is
// [B, A].
struct Start {
  Arguments arguments;
  std::optional<Tensor> x;  // [G, B, A], if given
};
Start check_start(const char* op, const std::optional<Tensor>& x_T,
                  const std::optional<Tensor>& cond, const std::vector<Tensor>& weights,
                  const Tensor& table, const Tensor& program, const Tensor& solver,
                  const std::optional<Tensor>& noise, const std::optional<Tensor>& rng, bool packed,
                  const std::vector<int64_t>& size);

// What its gradients start from, checked.
struct End {
  Arguments arguments;
  Tensor grad_out, path;
};
End check_end(const char* op, const Tensor& grad_out, const Tensor& path,
              const std::optional<Tensor>& cond, const std::vector<Tensor>& weights,
              const Tensor& table, const Tensor& program, const Tensor& solver,
              const std::optional<Tensor>& noise, const std::optional<Tensor>& rng);

// The arguments of a program that runs once, as far as they don't depend on x: all but cond, batch
// and repeat. groups: as many as the table must have, -1 for any.
struct PassNames {  // in messages
  const char *table = "table", *weights_of = nullptr, *masks = "dropout masks";
};
Arguments check_pass(const char* op, const Tensor& table, const Tensor& program,
                     const std::vector<Tensor>& weights, const std::optional<Tensor>& rng,
                     int64_t groups = -1, const PassNames& names = {});

struct Input {
  Arguments arguments;
  Tensor x;
};
Input check_program(const char* op, const Tensor& x, const std::optional<Tensor>& cond,
                    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
                    const std::optional<Tensor>& rng);

// Which gradients are asked for.
struct Needs {
  bool x, cond, weights, table;
  bool any() const { return x || cond || weights || table; }
};

// True for bf16 (1), false for fp32 (0).
bool check_precision(const char* op, int64_t precision);

// An argument that only tells what comes back.
void check_out_width(const char* op, int64_t given, int64_t width);

}  // namespace ops
}  // namespace dom2
