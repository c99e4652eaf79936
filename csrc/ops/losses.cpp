// Losses on the CPU, together with their gradients: what the loss needs of a row is known as soon
// as the row's result is. Defined by dom2_fast.ops.reference.denoising_loss, conservative_loss and
// chain_value; on other devices dom2_fast.ops composes them.
#include "cpu.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char* kDenoising = "dom2_fast::denoising_loss";
constexpr const char* kConservative = "dom2_fast::conservative_loss";
constexpr const char* kChain = "dom2_fast::chain_value";

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> denoising_loss(
    const Tensor& x, const std::optional<Tensor>& cond, const std::vector<Tensor>& weights,
    const Tensor& table, const Tensor& program, const Tensor& target,
    const std::optional<Tensor>& rng, int64_t precision, bool need_x, bool need_cond,
    bool need_weights, bool need_table) {
  const bool bf16 = check_precision(kDenoising, precision);
  const Input in = check_program(kDenoising, x, cond, weights, table, program, rng);
  const Arguments& a = in.arguments;
  CpuCall made = cpu_call(a, true, bf16, 0, 0);
  cpu::Call& c = made.call;
  const Tensor to = checked(target, kDenoising, "target", ScalarType::Float,
                            {a.groups, a.batch, c.exec->out_width}, a.place);
  c.x = in.x.const_data_ptr<float>();
  const Plan& plan = *a.compiled->backward;
  Differentiated d =
      differentiated(a.program(), plan, c, weights, {need_x, need_cond, need_weights, need_table});
  Tensor loss = empty({a.groups}, a.place);
  cpu::denoising_loss(cpu::active(), plan, c, d.call, to.const_data_ptr<float>(), d.out, threads(),
                      loss.mutable_data_ptr<float>());
  return {loss, d.x, d.cond, d.weights, d.table};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conservative_loss(
    const Tensor& act, const Tensor& proposed, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& target, const std::optional<Tensor>& rng, double cql_weight, double log_density,
    const std::optional<Tensor>& log_densities, int64_t precision, bool need_weights,
    bool need_table) {
  constexpr const char* op = kConservative;
  const bool bf16 = check_precision(op, precision);
  Arguments a = check_pass(op, table, program, weights, rng);
  const Program& p = a.program();
  STD_TORCH_CHECK(p.out.width == 1, op, ": the program returns ", p.out.width,
                  " columns; a critic returns 1");
  const int64_t width = p.buffers[0];
  const Tensor data = checked(act, op, "act", ScalarType::Float, {-1, -1, width}, a.place);
  const int64_t groups = data.size(0), batch = data.size(1);
  const Tensor actions =
      checked(proposed, op, "proposed", ScalarType::Float, {groups, batch, -1, width}, a.place);
  STD_TORCH_CHECK(actions.size(2) > 0, op, ": proposed has shape ", shape_text(actions),
                  ": it needs at least one action per row");
  const Tensor to = checked(target, op, "target", ScalarType::Float, {groups, batch}, a.place);
  std::optional<Tensor> each;
  if (log_densities)
    each = checked(*log_densities, op, "log_density", ScalarType::Float,
                   {groups, batch, actions.size(2)}, a.place);
  STD_TORCH_CHECK(groups > 0 && a.groups % groups == 0, op, ": table is for ", a.groups,
                  " critics, which can't share the data of ", groups,
                  " groups; it must be a multiple");
  a.cond = checked_cond(cond, op, p, groups, batch, a.place);
  a.repeat = 1 + actions.size(2);
  a.batch = batch * a.repeat;
  CpuCall made = cpu_call(a, true, bf16, 0, 0);
  cpu::Call& c = made.call;
  const Plan& plan = *a.compiled->backward;
  Differentiated d = differentiated(p, plan, c, weights, {false, false, need_weights, need_table});
  Tensor loss = empty({a.groups}, a.place), parts = empty({2, a.groups}, a.place);
  Tensor q = empty({a.groups, batch, a.repeat}, a.place);
  const cpu::ConservativeCall l{groups,
                                data.const_data_ptr<float>(),
                                actions.const_data_ptr<float>(),
                                to.const_data_ptr<float>(),
                                cql_weight,
                                log_density,
                                each ? each->const_data_ptr<float>() : nullptr,
                                q.mutable_data_ptr<float>()};
  cpu::conservative_loss(cpu::active(), plan, c, d.call, l, d.out, threads(),
                         loss.mutable_data_ptr<float>(), parts.mutable_data_ptr<float>());
  return {loss, parts, q, d.weights, d.table};
}

// The critic of chain_value: as many groups and rows as the policy.
Arguments check_critic(const Arguments& policy, const std::optional<Tensor>& cond,
                       const std::vector<Tensor>& weights, const Tensor& table,
                       const Tensor& program, const std::optional<Tensor>& rng) {
  constexpr PassNames names{"critic_table", "dom2_fast::chain_value, critic",
                            "the critic's dropout masks"};
  Arguments a = check_pass(kChain, table, program, weights, rng, policy.groups, names);
  a.batch = policy.batch;
  const Program& p = a.program();
  const int width = policy.program().out.width;
  STD_TORCH_CHECK(p.out.width == 1, kChain, ": critic_program returns ", p.out.width,
                  " columns; a critic returns 1");
  STD_TORCH_CHECK(p.buffers[0] == width, kChain, ": critic_program takes ", p.buffers[0],
                  " columns, the policy gives ", width);
  check_cond(cond, kChain, a);
  return a;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> chain_value(
    const std::optional<Tensor>& x_T, const std::optional<Tensor>& cond,
    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
    const Tensor& solver, const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
    const std::vector<Tensor>& critic_weights, const Tensor& critic_table,
    const Tensor& critic_program, const std::optional<Tensor>& critic_rng,
    const std::vector<int64_t>& size, double out_low, double out_high, int64_t precision,
    bool need_weights, bool need_table) {
  const bool bf16 = check_precision(kChain, precision);
  const Start start =
      check_start(kChain, x_T, cond, weights, table, program, solver, noise, rng, false, size);
  const Arguments& a = start.arguments;
  const Arguments of_critic =
      check_critic(a, cond, critic_weights, critic_table, critic_program, critic_rng);
  CpuCall made = cpu_call(a, true, bf16, out_low, out_high);
  CpuCall critic = cpu_call(of_critic, true, bf16, 0, 0);
  cpu::Call& c = made.call;
  if (start.x) c.x = start.x->const_data_ptr<float>();
  const Plan& plan = *a.compiled->backward;
  Differentiated d =
      differentiated(a.program(), plan, c, weights, {false, false, need_weights, need_table});
  thread_local cpu::Arena arena;  // another than that of the policy's weights
  const Exec& e = *critic.call.exec;
  const int64_t forward_size = a.groups * cpu::packed_size(e, false, bf16);
  const int64_t transposed_size = a.groups * cpu::packed_size(e, true, bf16);
  float* room = arena.floats(forward_size + transposed_size + 2 * cpu::kPanel);
  float* transposed = room + forward_size;
  pack_all(critic_weights, e, a.groups, false, bf16, room);
  if (d.call.packed_t) pack_all(critic_weights, e, a.groups, true, bf16, transposed);
  critic.call.packed = room;
  Tensor mean = empty({a.groups}, a.place), q = empty({a.groups, a.batch}, a.place);
  Tensor act = empty({a.groups, a.batch, a.program().out.width}, a.place);
  const cpu::ChainCall l{critic.call, transposed, false, q.mutable_data_ptr<float>(),
                         act.mutable_data_ptr<float>()};
  cpu::chain_value(cpu::active(), plan, c, d.call, l, d.out, threads(),
                   mean.mutable_data_ptr<float>());
  return {mean, q, act, d.weights, d.table};
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_IMPL(DOM2_OPS, CPU, m) {
  m.impl("denoising_loss", TORCH_BOX(&dom2::ops::denoising_loss));
  m.impl("conservative_loss", TORCH_BOX(&dom2::ops::conservative_loss));
  m.impl("chain_value", TORCH_BOX(&dom2::ops::chain_value));
}
