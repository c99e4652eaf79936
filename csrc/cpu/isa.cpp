#include "isa.h"

#include <atomic>
#include <cstdlib>

namespace dom2 {
namespace cpu {

#if defined(DOM2_X86)
extern const Kernels kernels_avx512_bf16, kernels_avx512, kernels_avx2;
#elif defined(DOM2_ARM64)
extern const Kernels kernels_neon;
#endif
extern const Kernels kernels_base;

namespace {

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* find(const std::string& name) {
  for (const Kernels* k : runnable())
    if (name == k->name) return k;
  return nullptr;
}

}  // namespace

std::vector<const Kernels*> built() {
#if defined(DOM2_X86)
  return {&kernels_avx512_bf16, &kernels_avx512, &kernels_avx2, &kernels_base};
#elif defined(DOM2_ARM64)
  return {&kernels_neon, &kernels_base};
#else
  return {&kernels_base};
#endif
}

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> out;
#if defined(DOM2_X86)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("fma");
  const bool avx512 = fma && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) out.push_back(&kernels_avx512_bf16);
  if (avx512) out.push_back(&kernels_avx512);
  if (fma && __builtin_cpu_supports("avx2")) out.push_back(&kernels_avx2);
#elif defined(DOM2_ARM64)
  out.push_back(&kernels_neon);  // part of the architecture
#endif
  out.push_back(&kernels_base);
  return out;
}

const Kernels& active() {
  const Kernels* k = chosen.load(std::memory_order_acquire);
  if (!k) {
    const char* wanted = std::getenv("DOM2_FAST_ISA");
    // A name that can't run here is refused, with a message, when Python loads the extension.
    if (wanted) k = find(wanted);
    if (!k) k = runnable().front();
    chosen.store(k, std::memory_order_release);
  }
  return *k;
}

bool choose(const std::string& name) {
  const Kernels* k = find(name);
  if (k) chosen.store(k, std::memory_order_release);
  return k != nullptr;
}

}  // namespace cpu
}  // namespace dom2
