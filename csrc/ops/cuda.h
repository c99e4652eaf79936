// What the CUDA implementations share. No CUDA header and no CUDA library of torch is needed: the
// launches are in csrc/cuda, the stream is asked for by name at run time. Compiled with DOM2_SIMT
// the same files serve the tests: memory of the CPU stands for the device's, kernels are emulated.
#pragma once
#include <memory>

#include "../cuda/run.h"
#include "common.h"

#if defined(DOM2_SIMT)
#define DOM2_DEVICE_KEY CPU
#else
#define DOM2_DEVICE_KEY CUDA
#endif

namespace dom2 {
namespace ops {

// Makes `place` the current device while it lives; memory that kernels were given through
// `context` lives as long. (torch's allocator hands it on in stream order after that.)
class CudaScope {
 public:
  explicit CudaScope(const Place& place);
  ~CudaScope();
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;

  const cuda::Context& context() const { return context_; }

 private:
  struct Guard;
  std::unique_ptr<Guard> guard_;
  std::vector<Tensor> kept_;
  cuda::Context context_;
};

// Checks that the device can compute so; returns the precision.
cuda::Precision checked_precision(int64_t precision, const cuda::Context& context, const char* op);

// The program laid out for the kernels, kept with `compiled`.
const cuda::Code& cuda_code(const Compiled& compiled, cuda::Precision precision, bool backward,
                            const char* op);

// Packs weights for `code` to `out`, [groups, packets] or [groups, packets_t] of 16 bytes.
void pack_to(const CudaScope& scope, const cuda::Code& code, cuda::Precision precision,
             const std::vector<Tensor>& weights, int64_t groups, bool transposed, void* out);
// The same into memory of the scope.
const void* pack_in(const CudaScope& scope, const cuda::Code& code, cuda::Precision precision,
                    const std::vector<Tensor>& weights, int64_t groups, bool transposed);

// Fills what denoise and run_program share.
cuda::Data cuda_data(const Arguments& a);

// Raises what an executor returned, if anything.
void check_ran(const std::string& why, const char* op);

}  // namespace ops
}  // namespace dom2
