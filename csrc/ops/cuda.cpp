#include "cuda.h"

#if !defined(DOM2_SIMT)
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#endif

#include <mutex>

namespace dom2 {
namespace ops {
namespace {

// Each card is asked once: the driver takes microseconds to answer.
cuda::Device find_card(int32_t index) {
  constexpr int kCards = 64;
  static std::mutex mutex;
  static cuda::Device known[kCards];
  static bool asked[kCards] = {};
  STD_TORCH_CHECK(index >= 0 && index < kCards, "dom2_fast: cuda:", index, " is out of range");
  const std::lock_guard<std::mutex> lock(mutex);
  if (!asked[index] || kEmulated) {
    const std::string why = cuda::find_device(index, known[index]);
    STD_TORCH_CHECK(why.empty(), "dom2_fast: cuda:", index, " can't be used: ", why);
    asked[index] = true;
  }
  return known[index];
}

#if !defined(DOM2_SIMT)
void* current_stream(int32_t index) {
  // A C function of torch's CUDA library, which a build against a torch without CUDA lacks. Python
  // loads that library privately, so it is asked for by name; it is not loaded anew.
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream"))
                   : nullptr;
  }();
  STD_TORCH_CHECK(
      get != nullptr,
      "dom2_fast: the CUDA library of torch, libtorch_cuda.so, is not loaded or older than 2.10");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(get(index, &stream));
  return stream;
}
#endif

}  // namespace

#if defined(DOM2_SIMT)
struct CudaScope::Guard {
  explicit Guard(int32_t) {}
};
#else
struct CudaScope::Guard {
  explicit Guard(int32_t index) : guard(index) {}
  torch::stable::accelerator::DeviceGuard guard;
};
#endif

CudaScope::CudaScope(const Place& place) : guard_(new Guard(place.index)) {
  context_.device = find_card(place.index);
#if !defined(DOM2_SIMT)
  context_.stream = current_stream(place.index);
#endif
  context_.allocate = [this, place](int64_t bytes) {
    kept_.push_back(empty({(bytes + 3) / 4}, place));
    return static_cast<void*>(kept_.back().mutable_data_ptr<float>());
  };
}

CudaScope::~CudaScope() = default;

cuda::Precision checked_precision(int64_t precision, const cuda::Context& context, const char* op) {
  STD_TORCH_CHECK(
      !check_precision(op, precision) || context.device.major >= 8, op,
      ": precision=\"bf16\" needs a card with bf16 tensor cores, of compute capability 8.0 "
      "or newer; this one has ",
      context.device.major, ".", context.device.minor, "; use precision=\"fp32\"");
  return static_cast<cuda::Precision>(precision);
}

const cuda::Code& cuda_code(const Compiled& compiled, cuda::Precision precision, bool backward,
                            const char* op) {
  auto& kept = compiled.code[static_cast<int>(precision)][backward];
  if (!kept) {
    auto made = std::make_unique<cuda::Code>();
    const Plan& plan = backward ? *compiled.backward : *compiled.forward;
    check_ran(cuda::make_code(compiled.program, plan, precision, backward, *made), op);
    kept = std::move(made);
  }
  return *kept;
}

void pack_to(const CudaScope& scope, const cuda::Code& code, cuda::Precision precision,
             const std::vector<Tensor>& weights, int64_t groups, bool transposed, void* out) {
  std::vector<cuda::Source> sources;
  for (const Tensor& w : weights)
    sources.push_back({w.const_data_ptr<float>(), w.stride(0), w.stride(1), w.stride(2)});
  check_ran(
      cuda::pack_weights(scope.context(), code, precision, sources.data(), groups, transposed, out),
      "dom2_fast::pack_weights");
}

const void* pack_in(const CudaScope& scope, const cuda::Code& code, cuda::Precision precision,
                    const std::vector<Tensor>& weights, int64_t groups, bool transposed) {
  const int64_t packets = transposed ? code.packets_t : code.packets;
  void* out = scope.context().allocate(16 * groups * packets);
  pack_to(scope, code, precision, weights, groups, transposed, out);
  return out;
}

cuda::Data cuda_data(const Arguments& a) {
  cuda::Data d{};
  d.groups = a.groups;
  d.batch = a.batch;
  d.steps = a.steps;
  d.repeat = a.repeat;
  d.cond = a.cond_data();
  d.table = a.table->const_data_ptr<float>();
  d.noise = a.noise_data();
  d.rng = a.seed.on_device ? a.seed.on_device->const_data_ptr<int64_t>() : nullptr;
  d.seed = a.seed.seed;
  d.offset = a.seed.offset;
  return d;
}

void check_ran(const std::string& why, const char* op) {
  STD_TORCH_CHECK(why.empty(), op, ": ", why);
}

}  // namespace ops
}  // namespace dom2
