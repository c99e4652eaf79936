// The ops' schemas. Implementations register in the file of each op and device.
#include "common.h"

STABLE_TORCH_LIBRARY_FRAGMENT(DOM2_OPS, m) {
  m.def(
      "denoise(Tensor? x_T, Tensor? cond, Tensor[] weights, Tensor table, Tensor program, "
      "Tensor solver, Tensor? noise, Tensor? rng, Tensor? packed, SymInt[] size, float out_low, "
      "float out_high, bool save_path, int precision) -> (Tensor out, Tensor path)");
  m.def(
      "denoise_backward(Tensor grad_out, Tensor path, Tensor? cond, Tensor[] weights, "
      "Tensor table, Tensor program, Tensor solver, Tensor? noise, Tensor? rng, float out_low, "
      "float out_high, int precision, bool need_x, bool need_cond, bool need_weights, "
      "bool need_table) -> "
      "(Tensor grad_x, Tensor grad_cond, Tensor grad_weights, Tensor grad_table)");
  m.def("pack_weights(Tensor[] weights, Tensor program, int precision) -> Tensor");
  m.def(
      "run_program(Tensor x, Tensor? cond, Tensor[] weights, Tensor table, Tensor program, "
      "Tensor? rng, int out_width, int precision) -> Tensor");
  m.def(
      "run_program_backward(Tensor grad_out, Tensor x, Tensor? cond, Tensor[] weights, "
      "Tensor table, Tensor program, Tensor? rng, int precision, bool need_x, bool need_cond, "
      "bool need_weights, bool need_table) -> "
      "(Tensor grad_x, Tensor grad_cond, Tensor grad_weights, Tensor grad_table)");
  m.def(
      "denoising_loss(Tensor x, Tensor? cond, Tensor[] weights, Tensor table, Tensor program, "
      "Tensor target, Tensor? rng, int precision, bool need_x, bool need_cond, "
      "bool need_weights, bool need_table) -> (Tensor loss, "
      "Tensor grad_x, Tensor grad_cond, Tensor grad_weights, Tensor grad_table)");
  m.def(
      "conservative_loss(Tensor act, Tensor proposed, Tensor? cond, Tensor[] weights, "
      "Tensor table, Tensor program, Tensor target, Tensor? rng, float cql_weight, "
      "float log_density, Tensor? log_densities, int precision, bool need_weights, "
      "bool need_table) -> "
      "(Tensor loss, Tensor parts, Tensor q, Tensor grad_weights, Tensor grad_table)");
  m.def(
      "chain_value(Tensor? x_T, Tensor? cond, Tensor[] weights, Tensor table, Tensor program, "
      "Tensor solver, Tensor? noise, Tensor? rng, Tensor[] critic_weights, Tensor critic_table, "
      "Tensor critic_program, Tensor? critic_rng, SymInt[] size, float out_low, float out_high, "
      "int precision, bool need_weights, bool need_table) -> "
      "(Tensor mean, Tensor q, Tensor act, Tensor grad_weights, Tensor grad_table)");
  m.def(
      "sample_transitions(Tensor[] fields, Tensor threshold, Tensor alias, Tensor starts, "
      "Tensor rng, SymInt batch, bool check) -> (Tensor[] outs, Tensor index)");
  m.def("alias_table(Tensor weights) -> (Tensor threshold, Tensor alias)");
}
