// Acting from a policy file, for C++ programs. Torch-free; see ../../examples/act.cpp.
#pragma once
#include <memory>
#include <string>

#include "../core/policy_file.h"
#include "run.h"

namespace dom2 {
namespace cpu {

// Where the random numbers of a call come from. Those not given are drawn from (seed, offset): the
// same pair gives the same actions, so take another offset for each call.
struct Draws {
  uint64_t seed = 0;
  uint32_t offset = 0;
  const float* x_T = nullptr;    // [G, B, A]: the starting noise
  const float* noise = nullptr;  // [S, G, B, A]: that of the solver's steps
};

// Gives what dom2_fast.load_policy(path).sample gives, bit for bit on one instruction set. May be
// used from several threads at once.
class Policy {
 public:
  // Null where the file can't be used, or DOM2_FAST_ISA names what can't run; `why` says why.
  // bf16: weights rounded to bf16, products of bf16 numbers where the processor has them, sums in
  // float32: quicker, with about three digits.
  static std::unique_ptr<Policy> load(const std::string& path, std::string& why, bool bf16 = false);
  // The same from a file in memory.
  static std::unique_ptr<Policy> parse(const char* data, size_t size, std::string& why,
                                       bool bf16 = false);

  int64_t agents() const { return file_.groups; }
  int64_t obs_dim() const { return plan_.exec.cond_width; }
  int64_t act_dim() const { return plan_.exec.out_width; }
  int64_t steps() const { return file_.steps; }  // of denoising; 0: one pass, which draws nothing
  // What the file says about itself.
  const std::map<std::string, std::string>& notes() const { return file_.notes; }

  // obs [agents, batch, obs_dim] -> act [agents, batch, act_dim], contiguous.
  // threads: the caller's pool, see run.h; none by default. Takes memory at a thread's first call,
  // and where a later one has more rows than any before it; else none.
  void sample(const float* obs, int64_t batch, const Draws& draws, float* act,
              const Threads& threads = {}) const;

 private:
  Policy(PolicyFile file, bool bf16);
  static std::unique_ptr<Policy> make(PolicyFile file, std::string& why, bool bf16);

  PolicyFile file_;  // without weights and table, which are below in the executor's layout
  Plan plan_;
  bool bf16_;
  Arena packed_;
  const float* weights_;
  std::vector<float> table_;
};

}  // namespace cpu
}  // namespace dom2
