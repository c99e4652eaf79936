// The file of one policy, as dom2_fast/policies/frozen.py writes it: reading and checking.
// Torch-free.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "program.h"

namespace dom2 {

// Everything that sampling needs, checked: the parts fit each other and the program is valid.
struct PolicyFile {
  Program program;
  int64_t groups = 0, steps = 0;            // steps 0: one pass makes the action
  bool stacked = false;                     // made from a stack of agents, even if there is one
  std::vector<std::vector<float>> weights;  // [G, N, K] each
  std::vector<float> table;                 // [max(S, 1), G, program.table_width]
  std::vector<double> solver;               // [S, kSolverColumns]
  double act_low = 0, act_high = 0;
  std::map<std::string, std::string> notes;  // what the file says about itself, for people

  // Both fill the rest; they return an empty string, or what is wrong.
  std::string parse(const char* data, size_t size);
  std::string load(const std::string& path);
};

}  // namespace dom2
