// pybind11 module dom2_fast._C: what was built, for which cards, which instruction set runs, choose
// one. The ops themselves register with PyTorch when this library is loaded (csrc/ops).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/exec.h"
#include "core/opcodes.h"
#include "cpu/isa.h"
#include "cuda/exec.h"
#include "python/python.h"

namespace py = pybind11;

namespace {

std::vector<std::string> names(const std::vector<const dom2::cpu::Kernels*>& kernels) {
  std::vector<std::string> out;
  for (const auto* k : kernels) out.emplace_back(k->name);
  return out;
}

// Floats of one group's packed weights, of shapes (N, K): for the fake kernel of pack_weights.
int64_t packed_size(const std::vector<std::pair<int, int>>& shapes, bool bf16, bool cuda) {
  using dom2::cuda::Precision;
  int64_t floats = 0;
  for (const auto& [n, k] : shapes)
    floats += cuda ? 4 * dom2::cuda::packets(n, k, bf16 ? Precision::kBf16 : Precision::kFp32)
                   : dom2::packed_floats(n, k, bf16);
  return floats;
}

// In the order of their codes, as they are called in C++.
std::vector<std::string> activations() {
#define DOM2_NAME(NAME) #NAME,
  return {"None", DOM2_ACTIVATIONS(DOM2_NAME)};
#undef DOM2_NAME
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of dom2_fast.";
  m.def("isas_built", [] { return names(dom2::cpu::built()); });
  m.def("isas_runnable", [] { return names(dom2::cpu::runnable()); });
  m.def("isa_active", [] { return std::string(dom2::cpu::active().name); });
  m.def("set_isa", [](const std::string& name) {
    if (!dom2::cpu::choose(name)) throw py::value_error("this processor can't run " + name);
  });
  m.def("packed_size", &packed_size);
  m.def("activations", &activations);
  dom2::add_actor(m);
  dom2::add_drawer(m);
  dom2::add_gradients(m);
  dom2::add_physics(m);
#if defined(DOM2_CUDA)
  py::dict cuda;
  cuda["version"] = DOM2_CUDA_VERSION;
  cuda["code"] = DOM2_CUDA_CODE;
  m.attr("cuda") = cuda;
  m.attr("cuda_why_not") = "";
#else
  m.attr("cuda") = py::none();
  m.attr("cuda_why_not") = DOM2_CUDA_WHY;
#endif
  m.attr("compiler") = DOM2_COMPILER;
  m.attr("torch_built_against") = DOM2_TORCH_VERSION;
}
