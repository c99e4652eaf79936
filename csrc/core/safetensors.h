// The safetensors format: a JSON header that names tensors, and their bytes. Torch-free, and safe
// on any input: what isn't such a file is refused with a reason.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dom2 {

// One tensor in the bytes of a file. `data` needn't be aligned: copy it out.
struct TensorView {
  std::string dtype;  // "F16", "F32", "F64" or "I64"
  std::vector<int64_t> shape;
  const char* data = nullptr;
  int64_t bytes = 0;
};

struct Safetensors {
  std::map<std::string, std::string> notes;  // "__metadata__"
  std::map<std::string, TensorView> tensors;
};

// Fills `out`, whose views point into `data`; returns an empty string, or what is wrong.
std::string parse_safetensors(const char* data, size_t size, Safetensors& out);

}  // namespace dom2
