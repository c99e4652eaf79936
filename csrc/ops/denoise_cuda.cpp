// denoise and run_program on CUDA. Defined by dom2_fast/ops/reference.py; compare denoise.cpp.
#include "cuda.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char *kOp = "dom2_fast::denoise", *kRun = "dom2_fast::run_program";

std::tuple<Tensor, Tensor> denoise(
    const std::optional<Tensor>& x_T, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    const std::optional<Tensor>& packed, const std::vector<int64_t>& size, double out_low,
    double out_high, bool save_path, int64_t precision) {
  const Start start = check_start(kOp, x_T, cond, weights, table, program, solver, noise, rng,
                                  packed.has_value(), size);
  const Arguments& a = start.arguments;
  const CudaScope scope(a.place);
  const cuda::Precision p = checked_precision(precision, scope.context(), kOp);
  const cuda::Code& code = cuda_code(*a.compiled, p, false, kOp);
  cuda::Data d = cuda_data(a);
  if (start.x) d.x = start.x->const_data_ptr<float>();
  std::optional<Tensor> kept;
  if (packed) {
    kept =
        checked(*packed, kOp, "packed", ScalarType::Float, {a.groups, 4 * code.packets}, a.place);
    d.packed = kept->const_data_ptr<float>();
  } else {
    d.packed = pack_in(scope, code, p, weights, a.groups, false);
  }
  Tensor out = empty({a.groups, a.batch, code.x_width}, a.place);
  Tensor path = empty({save_path ? a.steps + 1 : 0, a.groups, a.batch, code.x_width}, a.place);
  d.out = out.mutable_data_ptr<float>();
  d.path = save_path ? path.mutable_data_ptr<float>() : nullptr;
  check_ran(cuda::denoise(scope.context(), code, p, d, a.solver->const_data_ptr<double>(), out_low,
                          out_high),
            kOp);
  return {out, path};
}

// The gradients of one call whose data is checked; unwanted ones are empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const char* op, const Arguments& a,
                                                    const CudaScope& scope, cuda::Precision p,
                                                    const Tensor& path, const Tensor& grad_out,
                                                    const std::vector<Tensor>& weights,
                                                    double out_low, double out_high,
                                                    const Needs& needs) {
  cuda::Data d = cuda_data(a);
  const cuda::Code& code = cuda_code(*a.compiled, p, true, op);
  d.packed = pack_in(scope, code, p, weights, a.groups, false);
  cuda::Gradients g{};
  g.path = path.const_data_ptr<float>();
  g.grad_out = grad_out.const_data_ptr<float>();
  g.packed_t = pack_in(scope, code, p, weights, a.groups, true);
  Tensor gx = empty({needs.x ? a.groups : 0, a.batch, code.x_width}, a.place);
  Tensor gcond = empty({needs.cond ? a.groups : 0, a.batch, code.cond_width}, a.place);
  Tensor gw = empty({needs.weights ? a.groups * code.grad_floats : 0}, a.place);
  Tensor gt = empty({needs.table ? a.steps : 0, a.groups, code.table_width}, a.place);
  g.x = needs.x ? gx.mutable_data_ptr<float>() : nullptr;
  g.cond = needs.cond ? gcond.mutable_data_ptr<float>() : nullptr;
  g.weights = needs.weights ? gw.mutable_data_ptr<float>() : nullptr;
  g.table = needs.table ? gt.mutable_data_ptr<float>() : nullptr;
  check_ran(cuda::denoise_backward(scope.context(), code, p, d,
                                   a.solver ? a.solver->const_data_ptr<double>() : nullptr, out_low,
                                   out_high, g),
            op);
  return {gx, gcond, gw, gt};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> denoise_backward(
    const Tensor& grad_out, const Tensor& path, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    double out_low, double out_high, int64_t precision, bool need_x, bool need_cond,
    bool need_weights, bool need_table) {
  const End end = check_end(kOp, grad_out, path, cond, weights, table, program, solver, noise, rng);
  const CudaScope scope(end.arguments.place);
  const cuda::Precision p = checked_precision(precision, scope.context(), kOp);
  return backward(kOp, end.arguments, scope, p, end.path, end.grad_out, weights, out_low, out_high,
                  {need_x, need_cond, need_weights, need_table});
}

Tensor pack_weights(const std::vector<Tensor>& weights, const Tensor& program, int64_t precision) {
  constexpr const char* op = "dom2_fast::pack_weights";
  const Compiled& c = compiled(program, op);
  STD_TORCH_CHECK(!weights.empty(), op, ": there are no weights");
  const Place place = place_of(weights[0]);
  const int64_t groups = weights[0].size(0);
  check_weights(weights, c.program, groups, op, place);
  const CudaScope scope(place);
  const cuda::Precision p = checked_precision(precision, scope.context(), op);
  const cuda::Code& code = cuda_code(c, p, false, op);
  Tensor out = empty({groups, 4 * code.packets}, place);
  pack_to(scope, code, p, weights, groups, false, out.mutable_data_ptr<float>());
  return out;
}

Tensor run_program(const Tensor& x, const std::optional<Tensor>& cond,
                   const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
                   const std::optional<Tensor>& rng, int64_t out_width, int64_t precision) {
  const Input in = check_program(kRun, x, cond, weights, table, program, rng);
  const Arguments& a = in.arguments;
  const CudaScope scope(a.place);
  const cuda::Precision p = checked_precision(precision, scope.context(), kRun);
  const cuda::Code& code = cuda_code(*a.compiled, p, false, kRun);
  check_out_width(kRun, out_width, code.out_width);
  cuda::Data d = cuda_data(a);
  d.x = in.x.const_data_ptr<float>();
  d.packed = pack_in(scope, code, p, weights, a.groups, false);
  Tensor out = empty({a.groups, a.batch, code.out_width}, a.place);
  d.out = out.mutable_data_ptr<float>();
  check_ran(cuda::denoise(scope.context(), code, p, d, nullptr, 0, 0), kRun);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_program_backward(
    const Tensor& grad_out, const Tensor& x, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const std::optional<Tensor>& rng, int64_t precision, bool need_x, bool need_cond,
    bool need_weights, bool need_table) {
  const Input in = check_program(kRun, x, cond, weights, table, program, rng);
  const Arguments& a = in.arguments;
  const CudaScope scope(a.place);
  const cuda::Precision p = checked_precision(precision, scope.context(), kRun);
  const Tensor go = checked(grad_out, kRun, "grad_out", ScalarType::Float,
                            {a.groups, a.batch, a.program().out.width}, a.place);
  return backward(kRun, a, scope, p, in.x, go, weights, 0, 0,
                  {need_x, need_cond, need_weights, need_table});
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_IMPL(DOM2_OPS, DOM2_DEVICE_KEY, m) {
  m.impl("denoise", TORCH_BOX(&dom2::ops::denoise));
  m.impl("denoise_backward", TORCH_BOX(&dom2::ops::denoise_backward));
  m.impl("pack_weights", TORCH_BOX(&dom2::ops::pack_weights));
  m.impl("run_program", TORCH_BOX(&dom2::ops::run_program));
  m.impl("run_program_backward", TORCH_BOX(&dom2::ops::run_program_backward));
}
