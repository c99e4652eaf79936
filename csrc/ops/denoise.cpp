// denoise: the whole denoising loop in one call. Defined by dom2_fast.reference.denoise.
#include "common.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char* kOp = "dom2_fast::denoise";

// Arguments that forward and backward share, checked.
struct Inputs {
  const Compiled* compiled;
  std::optional<Tensor> rows;
  std::optional<Tensor> table, solver, noise;
  std::vector<float> padded;
  cpu::Call call{};
};

Inputs check(const std::optional<Tensor>& rows, const Tensor& table, const Tensor& program,
             const Tensor& solver, const std::optional<Tensor>& noise,
             const std::optional<Tensor>& rng, bool draws_x, int64_t batch, double out_low,
             double out_high, bool backward) {
  Inputs in;
  in.compiled = &compiled(program, kOp);
  const Program& p = in.compiled->program;
  in.table = checked(table, kOp, "table", ScalarType::Float, {-1, -1, p.table_width});
  const int64_t steps = in.table->size(0), groups = in.table->size(1);
  STD_TORCH_CHECK(steps > 0 && groups > 0, kOp, ": table needs at least one step and one group");
  STD_TORCH_CHECK(p.out.width == p.buffers[0], kOp, ": the program returns ", p.out.width,
                  " columns for an x of ", p.buffers[0], "; a noise network returns as many");
  in.solver = checked(solver, kOp, "solver", ScalarType::Double, {steps, 8});
  STD_TORCH_CHECK(batch >= 0, kOp, ": batch is ", batch);
  cpu::Call& c = in.call;
  in.rows = check_rows(rows, p, groups, batch, kOp, c);
  if (noise) {
    in.noise =
        checked(*noise, kOp, "noise", ScalarType::Float, {steps, groups, batch, p.buffers[0]});
    c.noise = in.noise->const_data_ptr<float>();
  }
  c.solver = in.solver->const_data_ptr<double>();
  bool draws = draws_x || p.sites > 0;
  for (int64_t s = 0; s < steps; ++s) draws |= !noise && c.solver[s * 8 + 5] != 0.0;
  const Seed seed = checked_seed(rng, draws, kOp, "x_T, noise or dropout masks");
  const Plan& plan = backward ? *in.compiled->backward : *in.compiled->forward;
  in.padded.resize(steps * groups * plan.exec.table_ld);
  cpu::pad_table(plan, in.table->const_data_ptr<float>(), p.table_width, steps * groups,
                 in.padded.data());
  c.exec = &plan.exec;
  c.groups = groups;
  c.batch = batch;
  c.steps = steps;
  c.table = in.padded.data();
  c.seed = seed.seed;
  c.offset = seed.offset;
  c.out_low = out_low;
  c.out_high = out_high;
  return in;
}

std::tuple<Tensor, Tensor> denoise(
    const std::optional<Tensor>& x_T, const std::optional<Tensor>& rows,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    const std::optional<Tensor>& packed, const std::vector<int64_t>& size, double out_low,
    double out_high, bool save_path) {
  STD_TORCH_CHECK(size.size() == 2, kOp, ": size has ", size.size(), " entries, it is [B, A]");
  const int64_t batch = size[0];
  Inputs in = check(rows, table, program, solver, noise, rng, !x_T.has_value(), batch, out_low,
                    out_high, false);
  cpu::Call& c = in.call;
  const Exec& e = *c.exec;
  if (!packed) check_weights(weights, in.compiled->program, c.groups, kOp);
  STD_TORCH_CHECK(size[1] == e.x_width, kOp, ": size asks for ", size[1],
                  " columns, the program has ", e.x_width);
  std::optional<Tensor> x;
  if (x_T) {
    x = checked(*x_T, kOp, "x_T", ScalarType::Float, {c.groups, batch, e.x_width});
    c.x = x->const_data_ptr<float>();
  }
  thread_local cpu::Arena arena;
  std::optional<Tensor> kept;
  if (packed) {
    kept = checked(*packed, kOp, "packed", ScalarType::Float, {c.groups, e.packed_size});
    c.packed = kept->const_data_ptr<float>();
  } else {
    float* room = arena.floats(c.groups * e.packed_size + cpu::kPanel);
    pack_all(weights, e, c.groups, false, room);
    c.packed = room;
  }
  Tensor out = empty({c.groups, batch, e.x_width});
  Tensor path = empty({save_path ? c.steps + 1 : 0, c.groups, batch, e.x_width});
  c.out = out.mutable_data_ptr<float>();
  c.path = save_path ? path.mutable_data_ptr<float>() : nullptr;
  cpu::denoise(cpu::active(), c, threads());
  return {out, path};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> denoise_backward(
    const Tensor& grad_out, const Tensor& path, const std::optional<Tensor>& rows,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    double out_low, double out_high, bool need_x, bool need_rows, bool need_weights,
    bool need_table) {
  Inputs in =
      check(rows, table, program, solver, noise, rng, false, path.size(2), out_low, out_high, true);
  cpu::Call& c = in.call;
  const Exec& e = *c.exec;
  check_weights(weights, in.compiled->program, c.groups, kOp);
  const Tensor go =
      checked(grad_out, kOp, "grad_out", ScalarType::Float, {c.groups, c.batch, e.x_width});
  const Tensor saved =
      checked(path, kOp, "path", ScalarType::Float, {c.steps + 1, c.groups, c.batch, e.x_width});
  c.path = const_cast<float*>(saved.const_data_ptr<float>());  // only read by backward
  return run_backward(in.compiled->program, *in.compiled->backward, c, go, weights, need_x,
                      need_rows, need_weights, need_table);
}

Tensor pack_weights(const std::vector<Tensor>& weights, const Tensor& program) {
  constexpr const char* op = "dom2_fast::pack_weights";
  const Compiled& c = compiled(program, op);
  const int64_t groups = weights.empty() ? 1 : weights[0].size(0);
  check_weights(weights, c.program, groups, op);
  const Exec& e = c.forward->exec;
  Tensor out = empty({groups, e.packed_size});
  pack_all(weights, e, groups, false, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_FRAGMENT(dom2_fast, m) {
  m.def(
      "denoise(Tensor? x_T, Tensor? rows, Tensor[] weights, Tensor table, Tensor program, "
      "Tensor solver, Tensor? noise, Tensor? rng, Tensor? packed, SymInt[] size, float out_low, "
      "float out_high, bool save_path) -> (Tensor out, Tensor path)");
  m.def(
      "denoise_backward(Tensor grad_out, Tensor path, Tensor? rows, Tensor[] weights, "
      "Tensor table, Tensor program, Tensor solver, Tensor? noise, Tensor? rng, float out_low, "
      "float out_high, bool need_x, bool need_rows, bool need_weights, bool need_table) -> "
      "(Tensor grad_x, Tensor grad_rows, Tensor grad_weights, Tensor grad_table)");
  m.def("pack_weights(Tensor[] weights, Tensor program) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(dom2_fast, CPU, m) {
  m.impl("denoise", TORCH_BOX(&dom2::ops::denoise));
  m.impl("denoise_backward", TORCH_BOX(&dom2::ops::denoise_backward));
  m.impl("pack_weights", TORCH_BOX(&dom2::ops::pack_weights));
}
