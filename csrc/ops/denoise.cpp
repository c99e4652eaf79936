// denoise on the CPU: the whole denoising loop in one call. Defined by
// dom2_fast.ops.reference.denoise.
#include "cpu.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char* kOp = "dom2_fast::denoise";

std::tuple<Tensor, Tensor> denoise(
    const std::optional<Tensor>& x_T, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    const std::optional<Tensor>& packed, const std::vector<int64_t>& size, double out_low,
    double out_high, bool save_path, int64_t precision) {
  const Start start = check_start(kOp, x_T, cond, weights, table, program, solver, noise, rng,
                                  packed.has_value(), size);
  const Arguments& a = start.arguments;
  CpuCall made = cpu_call(a, false, check_precision(kOp, precision), out_low, out_high);
  cpu::Call& c = made.call;
  const Exec& e = *c.exec;
  if (start.x) c.x = start.x->const_data_ptr<float>();
  std::optional<Tensor> kept;
  thread_local cpu::Arena arena;
  const int64_t size_packed = cpu::packed_size(e, false, c.bf16);
  if (packed) {
    kept = checked(*packed, kOp, "packed", ScalarType::Float, {a.groups, size_packed}, a.place);
    c.packed = kept->const_data_ptr<float>();
  } else {
    float* room = arena.floats(a.groups * size_packed + cpu::kPanel);
    pack_all(weights, e, a.groups, false, c.bf16, room);
    c.packed = room;
  }
  Tensor out = empty({a.groups, a.batch, e.x_width}, a.place);
  Tensor path = empty({save_path ? a.steps + 1 : 0, a.groups, a.batch, e.x_width}, a.place);
  c.out = out.mutable_data_ptr<float>();
  c.path = save_path ? path.mutable_data_ptr<float>() : nullptr;
  cpu::denoise(cpu::active(), c, threads());
  return {out, path};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> denoise_backward(
    const Tensor& grad_out, const Tensor& path, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    double out_low, double out_high, int64_t precision, bool need_x, bool need_cond,
    bool need_weights, bool need_table) {
  const End end = check_end(kOp, grad_out, path, cond, weights, table, program, solver, noise, rng);
  const Arguments& a = end.arguments;
  CpuCall made = cpu_call(a, true, check_precision(kOp, precision), out_low, out_high);
  return run_backward(a.program(), *a.compiled->backward, made.call,
                      end.path.const_data_ptr<float>(), end.grad_out, weights,
                      {need_x, need_cond, need_weights, need_table});
}

Tensor pack_weights(const std::vector<Tensor>& weights, const Tensor& program, int64_t precision) {
  constexpr const char* op = "dom2_fast::pack_weights";
  const bool bf16 = check_precision(op, precision);
  const Compiled& c = compiled(program, op);
  const int64_t groups = weights.empty() ? 1 : weights[0].size(0);
  check_weights(weights, c.program, groups, op, cpu_place());
  const Exec& e = c.forward->exec;
  Tensor out = empty({groups, cpu::packed_size(e, false, bf16)}, cpu_place());
  pack_all(weights, e, groups, false, bf16, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_IMPL(DOM2_OPS, CPU, m) {
  m.impl("denoise", TORCH_BOX(&dom2::ops::denoise));
  m.impl("denoise_backward", TORCH_BOX(&dom2::ops::denoise_backward));
  m.impl("pack_weights", TORCH_BOX(&dom2::ops::pack_weights));
}
