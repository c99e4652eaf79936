// run_program: one pass of a step program (critics, training losses). Defined by
// dom2_fast.reference.run_program.
#include "common.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char* kOp = "dom2_fast::run_program";

struct Inputs {
  const Compiled* compiled;
  std::optional<Tensor> rows;
  Tensor x, table;
  std::vector<float> padded;
  cpu::Call call{};
};

Inputs check(const Tensor& x, const std::optional<Tensor>& rows, const std::vector<Tensor>& weights,
             const Tensor& table, const Tensor& program, const std::optional<Tensor>& rng,
             bool backward) {
  Inputs in;
  in.compiled = &compiled(program, kOp);
  const Program& p = in.compiled->program;
  in.table = checked(table, kOp, "table", ScalarType::Float, {1, -1, p.table_width});
  const int64_t groups = in.table.size(1);
  STD_TORCH_CHECK(groups > 0, kOp, ": table needs at least one group");
  check_weights(weights, p, groups, kOp);
  in.x = checked(x, kOp, "x", ScalarType::Float, {groups, -1, p.buffers[0]});
  cpu::Call& c = in.call;
  c.batch = in.x.size(1);
  in.rows = check_rows(rows, p, groups, c.batch, kOp, c);
  const Seed seed = checked_seed(rng, p.sites > 0, kOp, "dropout masks");
  const Plan& plan = backward ? *in.compiled->backward : *in.compiled->forward;
  in.padded.resize(groups * plan.exec.table_ld);
  cpu::pad_table(plan, in.table.const_data_ptr<float>(), p.table_width, groups, in.padded.data());
  c.exec = &plan.exec;
  c.groups = groups;
  c.steps = 1;
  c.x = in.x.const_data_ptr<float>();
  c.table = in.padded.data();
  c.seed = seed.seed;
  c.offset = seed.offset;
  return in;
}

Tensor run_program(const Tensor& x, const std::optional<Tensor>& rows,
                   const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
                   const std::optional<Tensor>& rng, int64_t out_width) {
  Inputs in = check(x, rows, weights, table, program, rng, false);
  cpu::Call& c = in.call;
  const Exec& e = *c.exec;
  STD_TORCH_CHECK(out_width == e.out_width, kOp, ": out_width is ", out_width,
                  ", the program returns ", e.out_width, " columns");
  thread_local cpu::Arena arena;
  float* room = arena.floats(c.groups * e.packed_size + cpu::kPanel);
  pack_all(weights, e, c.groups, false, room);
  c.packed = room;
  Tensor out = empty({c.groups, c.batch, e.out_width});
  c.out = out.mutable_data_ptr<float>();
  cpu::denoise(cpu::active(), c, threads());
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_program_backward(
    const Tensor& grad_out, const Tensor& x, const std::optional<Tensor>& rows,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const std::optional<Tensor>& rng, bool need_x, bool need_rows, bool need_weights,
    bool need_table) {
  Inputs in = check(x, rows, weights, table, program, rng, true);
  cpu::Call& c = in.call;
  const Tensor go =
      checked(grad_out, kOp, "grad_out", ScalarType::Float, {c.groups, c.batch, c.exec->out_width});
  c.path = const_cast<float*>(c.x);  // only read by backward
  return run_backward(in.compiled->program, *in.compiled->backward, c, go, weights, need_x,
                      need_rows, need_weights, need_table);
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_FRAGMENT(dom2_fast, m) {
  m.def(
      "run_program(Tensor x, Tensor? rows, Tensor[] weights, Tensor table, Tensor program, "
      "Tensor? rng, int out_width) -> Tensor");
  m.def(
      "run_program_backward(Tensor grad_out, Tensor x, Tensor? rows, Tensor[] weights, "
      "Tensor table, Tensor program, Tensor? rng, bool need_x, bool need_rows, "
      "bool need_weights, bool need_table) -> "
      "(Tensor grad_x, Tensor grad_rows, Tensor grad_weights, Tensor grad_table)");
}

STABLE_TORCH_LIBRARY_IMPL(dom2_fast, CPU, m) {
  m.impl("run_program", TORCH_BOX(&dom2::ops::run_program));
  m.impl("run_program_backward", TORCH_BOX(&dom2::ops::run_program_backward));
}
