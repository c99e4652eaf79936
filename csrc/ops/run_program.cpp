// run_program on the CPU: one pass of a step program (critics, training losses). Defined by
// dom2_fast.ops.reference.run_program.
#include "cpu.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char* kOp = "dom2_fast::run_program";

Tensor run_program(const Tensor& x, const std::optional<Tensor>& cond,
                   const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
                   const std::optional<Tensor>& rng, int64_t out_width, int64_t precision) {
  const Input in = check_program(kOp, x, cond, weights, table, program, rng);
  CpuCall made = cpu_call(in.arguments, false, check_precision(kOp, precision), 0, 0);
  cpu::Call& c = made.call;
  const Exec& e = *c.exec;
  check_out_width(kOp, out_width, e.out_width);
  c.x = in.x.const_data_ptr<float>();
  thread_local cpu::Arena arena;
  float* room = arena.floats(c.groups * cpu::packed_size(e, false, c.bf16) + cpu::kPanel);
  pack_all(weights, e, c.groups, false, c.bf16, room);
  c.packed = room;
  Tensor out = empty({c.groups, c.batch, e.out_width}, cpu_place());
  c.out = out.mutable_data_ptr<float>();
  cpu::denoise(cpu::active(), c, threads());
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_program_backward(
    const Tensor& grad_out, const Tensor& x, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const std::optional<Tensor>& rng, int64_t precision, bool need_x, bool need_cond,
    bool need_weights, bool need_table) {
  const Input in = check_program(kOp, x, cond, weights, table, program, rng);
  CpuCall made = cpu_call(in.arguments, true, check_precision(kOp, precision), 0, 0);
  cpu::Call& c = made.call;
  const Tensor go = checked(grad_out, kOp, "grad_out", ScalarType::Float,
                            {c.groups, c.batch, c.exec->out_width}, cpu_place());
  c.x = in.x.const_data_ptr<float>();
  return run_backward(in.arguments.program(), *in.arguments.compiled->backward, c, c.x, go, weights,
                      {need_x, need_cond, need_weights, need_table});
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_IMPL(DOM2_OPS, CPU, m) {
  m.impl("run_program", TORCH_BOX(&dom2::ops::run_program));
  m.impl("run_program_backward", TORCH_BOX(&dom2::ops::run_program_backward));
}
