#include "cpu.h"

namespace dom2 {
namespace ops {

cpu::Threads threads() {
  cpu::Threads t;
  t.count = static_cast<int>(torch::stable::get_num_threads());
  t.run = [](int64_t n, const std::function<void(int64_t)>& body) {
    torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i);
    });
  };
  return t;
}

CpuCall cpu_call(const Arguments& a, bool backward, bool bf16, double out_low, double out_high) {
  CpuCall out;
  const Plan& plan = backward ? *a.compiled->backward : *a.compiled->forward;
  const int64_t rows = a.steps * a.groups;
  out.padded.resize(rows * plan.exec.table_ld);
  cpu::pad_table(plan, a.table->const_data_ptr<float>(), a.program().table_width, rows,
                 out.padded.data());
  cpu::Call& c = out.call;
  c.exec = &plan.exec;
  c.groups = a.groups;
  c.bf16 = bf16;
  c.batch = a.batch;
  c.steps = a.steps;
  c.repeat = a.repeat;
  c.cond = a.cond_data();
  c.noise = a.noise_data();
  c.table = out.padded.data();
  c.solver = a.solver ? a.solver->const_data_ptr<double>() : nullptr;
  c.seed = a.seed.seed;
  c.offset = a.seed.offset;
  c.out_low = out_low;
  c.out_high = out_high;
  return out;
}

void pack_all(const std::vector<Tensor>& weights, const Exec& e, int64_t groups, bool transposed,
              bool bf16, float* out) {
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& t = weights[i];
    for (int64_t g = 0; g < groups; ++g) {
      const float* data = t.const_data_ptr<float>() + g * t.stride(0);
      cpu::pack_weight(e, e.weights[i], g, {data, t.stride(1), t.stride(2)}, transposed, bf16, out);
    }
  }
}

Differentiated differentiated(const Program& p, const Plan& plan, cpu::Call& c,
                              const std::vector<Tensor>& weights, const Needs& needs) {
  const Exec& e = plan.exec;
  thread_local cpu::Arena arena;
  const int64_t forward_size = c.groups * cpu::packed_size(e, false, c.bf16);
  const int64_t transposed_size = c.groups * cpu::packed_size(e, true, c.bf16);
  float* room = arena.floats(forward_size + transposed_size + 2 * cpu::kPanel);
  pack_all(weights, e, c.groups, false, c.bf16, room);
  c.packed = room;
  int64_t weights_size = 0;
  for (size_t i = 0; i < p.n.size(); ++i) weights_size += c.groups * p.n[i] * p.k[i];
  Differentiated d{empty({needs.x ? c.groups : 0, c.batch, e.x_width}, cpu_place()),
                   empty({needs.cond ? c.groups : 0, c.batch, e.cond_width}, cpu_place()),
                   empty({needs.weights ? weights_size : 0}, cpu_place()),
                   empty({needs.table ? c.steps : 0, c.groups, p.table_width}, cpu_place())};
  if (needs.any()) {
    pack_all(weights, e, c.groups, true, c.bf16, room + forward_size);
    d.call.packed_t = room + forward_size;
  }
  if (needs.table) torch::stable::zero_(d.table);
  if (needs.x) d.call.grad_x = d.x.mutable_data_ptr<float>();
  if (needs.cond) d.call.grad_cond = d.cond.mutable_data_ptr<float>();
  d.out = {needs.weights ? d.weights.mutable_data_ptr<float>() : nullptr,
           needs.table ? d.table.mutable_data_ptr<float>() : nullptr, p.table_width};
  return d;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_backward(const Program& p, const Plan& plan,
                                                        cpu::Call& c, const float* path,
                                                        const Tensor& grad_out,
                                                        const std::vector<Tensor>& weights,
                                                        const Needs& needs) {
  Differentiated d = differentiated(p, plan, c, weights, needs);
  d.call.path = path;
  d.call.grad_out = grad_out.const_data_ptr<float>();
  cpu::denoise_backward(cpu::active(), plan, c, d.call, d.out, threads());
  return {d.x, d.cond, d.weights, d.table};
}

}  // namespace ops
}  // namespace dom2
