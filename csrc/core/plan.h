// Lays a step program out for the executors: which column of a row's scratch memory each buffer
// gets, where gradients go, where each packed weight starts. Torch-free.
#pragma once
#include <vector>

#include "exec.h"
#include "program.h"

namespace dom2 {

struct Plan {
  Exec exec{};
  std::vector<ExecInstr> instrs;
  std::vector<Weight> weights;
  std::vector<int> zero;
  std::vector<int> table_from, table_to, table_width;  // column ranges to copy into padded rows

  // `backward` keeps every value and pre-activation, otherwise columns are reused once dead.
  Plan(const Program& program, bool backward);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

}  // namespace dom2
