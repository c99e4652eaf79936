// What a card is, and what its errors say.
#include "device.h"

#include "run.h"

namespace dom2 {
namespace cuda {

std::string failure(const char* kernel, int error) {
  if (error == cudaSuccess) return {};
  return std::string(kernel) + ": " + cudaGetErrorString(static_cast<cudaError_t>(error));
}

std::string find_device(int index, Device& out) {
  const auto ask = [&](cudaDeviceAttr what, int& value) {
    return cudaDeviceGetAttribute(&value, what, index);
  };
  int shared = 0;
  cudaError_t error = ask(cudaDevAttrMultiProcessorCount, out.multiprocessors);
  if (error == cudaSuccess) error = ask(cudaDevAttrComputeCapabilityMajor, out.major);
  if (error == cudaSuccess) error = ask(cudaDevAttrComputeCapabilityMinor, out.minor);
  if (error == cudaSuccess) error = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, shared);
  out.shared_bytes = shared;
  return failure("find_device", error);
}

}  // namespace cuda
}  // namespace dom2
