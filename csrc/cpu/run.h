// Runs the executors over all rows and groups with threads. Torch-free.
#pragma once
#include <functional>
#include <memory>

#include "isa.h"
#include "pack.h"

namespace dom2 {
namespace cpu {

// How the caller's thread pool is reached: runs body(0) .. body(n - 1), at most `count` at once.
struct Threads {
  int count = 1;
  std::function<void(int64_t n, const std::function<void(int64_t)>& body)> run;
};

// A 64-byte aligned block of floats that grows and is kept.
class Arena {
 public:
  float* floats(int64_t n);

 private:
  struct Free {
    void operator()(float* p) const;
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

// The whole loop, forward. call.exec belongs to a plan made with backward = false.
void denoise(const Kernels& kernels, const Call& call, const Threads& threads);

// Where gradients go, besides those in BackwardCall; null where not wanted.
struct Gradients {
  float* weights;  // [sum over weights of G * N * K]: one [G, N, K] block after the other
  float* table;    // [S, G, table_width], zero on entry
  int table_width;
};

// Backward. call.exec belongs to `plan`, made with backward = true.
// Sums over rows are split over threads.count partial sums, added in order: equal results for an
// equal number of threads.
void denoise_backward(const Kernels& kernels, const Plan& plan, const Call& call,
                      const BackwardCall& b, const Gradients& out, const Threads& threads);

// The mean over rows and columns of (the program's result - target)^2, loss [G], with its
// gradients. target: [G, B, out_width]. Plan, sums and results as in denoise_backward; b.packed_t
// null: no gradients.
void denoising_loss(const Kernels& kernels, const Plan& plan, const Call& call,
                    const BackwardCall& b, const float* target, const Gradients& out,
                    const Threads& threads, float* loss);

// The loss [G] of conservative critics and its parts, td and cql [2, G], with the loss's gradients.
// call.batch counts rows of x, call.repeat of them for each condition vector.
void conservative_loss(const Kernels& kernels, const Plan& plan, const Call& call,
                       const BackwardCall& b, const ConservativeCall& l, const Gradients& out,
                       const Threads& threads, float* loss, float* parts);

// The mean over rows, [G], of the critic's values l.q of what `denoise` gives, with its gradients.
// l.keep is decided here.
void chain_value(const Kernels& kernels, const Plan& plan, const Call& call, const BackwardCall& b,
                 ChainCall l, const Gradients& out, const Threads& threads, float* mean);

// Draws and gathers a whole batch.
void sample_transitions(const Kernels& kernels, const SampleCall& call, const Threads& threads);

}  // namespace cpu
}  // namespace dom2
