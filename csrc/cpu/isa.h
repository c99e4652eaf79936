// Which kernels were built, which this processor can run, which are in use. Torch-free.
#pragma once
#include <string>
#include <vector>

#include "exec.h"

namespace dom2 {
namespace cpu {

std::vector<const Kernels*> built();     // best first
std::vector<const Kernels*> runnable();  // best first, never empty
// The best runnable one, or the one that the environment variable DOM2_FAST_ISA names.
const Kernels& active();
// False if `name` isn't runnable here.
bool choose(const std::string& name);

}  // namespace cpu
}  // namespace dom2
