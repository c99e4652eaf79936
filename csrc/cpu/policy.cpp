#include "policy.h"

#include <cstdlib>
#include <new>
#include <utility>

namespace dom2 {
namespace cpu {

std::unique_ptr<Policy> Policy::load(const std::string& path, std::string& why, bool bf16) {
  PolicyFile file;
  why = file.load(path);
  return why.empty() ? make(std::move(file), why, bf16) : nullptr;
}

std::unique_ptr<Policy> Policy::parse(const char* data, size_t size, std::string& why, bool bf16) {
  PolicyFile file;
  why = file.parse(data, size);
  return why.empty() ? make(std::move(file), why, bf16) : nullptr;
}

std::unique_ptr<Policy> Policy::make(PolicyFile file, std::string& why, bool bf16) {
  const char* wanted = std::getenv("DOM2_FAST_ISA");
  if (wanted) {
    std::string names;
    bool found = false;
    for (const Kernels* k : runnable()) {
      found = found || wanted == std::string(k->name);
      names += (names.empty() ? "" : ", ") + std::string(k->name);
    }
    if (!found) {
      why = "DOM2_FAST_ISA is '" + std::string(wanted) + "', which can't run here: choose one of " +
            names + ", or unset it";
      return nullptr;
    }
  }
  try {
    return std::unique_ptr<Policy>(new Policy(std::move(file), bf16));
  } catch (const std::bad_alloc&) {
    why = "the policy doesn't fit into memory";
    return nullptr;
  }
}

Policy::Policy(PolicyFile file, bool bf16)
    : file_(std::move(file)), plan_(file_.program, false), bf16_(bf16) {
  const Exec& e = plan_.exec;
  const int64_t groups = file_.groups, rows = file_.steps * groups;
  float* room = packed_.floats(groups * packed_size(e, false, bf16) + kPanel);
  for (size_t i = 0; i < file_.weights.size(); ++i) {
    const Weight& w = e.weights[i];
    for (int64_t g = 0; g < groups; ++g)
      pack_weight(e, w, g, {file_.weights[i].data() + g * w.n * w.k, w.k, 1}, false, bf16, room);
  }
  weights_ = room;
  table_.resize(rows * e.table_ld);
  pad_table(plan_, file_.table.data(), file_.program.table_width, rows, table_.data());
  file_.weights = {};
  file_.table = {};
}

void Policy::sample(const float* obs, int64_t batch, const Draws& draws, float* act,
                    const Threads& threads) const {
  Call c{};
  c.exec = &plan_.exec;
  c.groups = file_.groups;
  c.batch = batch;
  c.steps = file_.steps;
  c.repeat = 1;
  c.x = draws.x_T;
  c.cond = obs;
  c.bf16 = bf16_;
  c.packed = weights_;
  c.table = table_.data();
  c.solver = file_.solver.data();
  c.noise = draws.noise;
  c.seed = draws.seed;
  c.offset = draws.offset;
  c.out_low = file_.act_low;
  c.out_high = file_.act_high;
  c.out = act;
  denoise(active(), c, threads);
}

}  // namespace cpu
}  // namespace dom2
