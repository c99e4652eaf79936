// sample_transitions on the CPU: weighted draw of transitions and gather of all their fields.
// Defined by dom2_fast.ops.reference.sample_transitions and reference.alias_table.
#include <cmath>

#include "cpu.h"
#include "draw.h"

namespace dom2 {
namespace ops {
namespace {

std::tuple<std::vector<Tensor>, Tensor> sample_transitions(const std::vector<Tensor>& fields,
                                                           const Tensor& threshold,
                                                           const Tensor& alias,
                                                           const Tensor& starts, const Tensor& rng,
                                                           int64_t batch, bool check) {
  Draw in = check_draw(fields, threshold, alias, starts, rng, batch);
  const int64_t* s = in.starts.const_data_ptr<int64_t>();
  if (check)
    check_tables(in.threshold.const_data_ptr<int64_t>(), in.alias.const_data_ptr<int64_t>(), s,
                 in.groups, in.trajectories);
  std::vector<cpu::Field> list;
  for (const DrawnField& f : in.fields)
    list.push_back({f.data, f.row, f.width, f.is_double, f.out});
  cpu::SampleCall c{in.groups,
                    batch,
                    static_cast<int64_t>(list.size()) / in.groups,
                    list.data(),
                    in.threshold.const_data_ptr<int64_t>(),
                    in.alias.const_data_ptr<int64_t>(),
                    s,
                    in.trajectories,
                    in.seed.seed,
                    in.seed.offset,
                    in.index.mutable_data_ptr<int64_t>()};
  cpu::sample_transitions(cpu::active(), c, threads());
  return {std::move(in.outs), in.index};
}

std::tuple<Tensor, Tensor> alias_table(const Tensor& weights) {
  constexpr const char* op = "dom2_fast::alias_table";
  const Tensor w = checked(weights, op, "weights", ScalarType::Double, {-1, -1}, cpu_place());
  const int64_t groups = w.size(0), n = w.size(1);
  Tensor threshold = empty({groups, n}, cpu_place(), ScalarType::Long),
         alias = empty({groups, n}, cpu_place(), ScalarType::Long);
  std::vector<double> scaled(n);
  std::vector<int64_t> small, large;
  for (int64_t g = 0; g < groups; ++g) {
    const double* in = w.const_data_ptr<double>() + g * n;
    int64_t *t = threshold.mutable_data_ptr<int64_t>() + g * n,
            *a = alias.mutable_data_ptr<int64_t>() + g * n;
    double total = 0;
    for (int64_t j = 0; j < n; ++j) {
      STD_TORCH_CHECK(in[j] >= 0 && std::isfinite(in[j]), op, ": weight ", j, " of agent ", g,
                      " is ", in[j], "; weights must be finite and not negative");
      total += in[j];
    }
    STD_TORCH_CHECK(total > 0 && std::isfinite(total), op, ": the weights of agent ", g, " sum to ",
                    total, "; at least one must be positive");
    small.clear();
    large.clear();
    for (int64_t j = 0; j < n; ++j) {
      scaled[j] = in[j] * (static_cast<double>(n) / total);
      a[j] = j;
      (scaled[j] < 1.0 ? small : large).push_back(j);
    }
    while (!small.empty() && !large.empty()) {
      const int64_t s = small.back(), l = large.back();
      small.pop_back();
      a[s] = l;
      scaled[l] -= 1.0 - scaled[s];
      if (scaled[l] < 1.0) {
        large.pop_back();
        small.push_back(l);
      }
    }
    for (int64_t j : small) scaled[j] = 1.0;  // left over by rounding: they keep themselves
    for (int64_t j : large) scaled[j] = 1.0;
    for (int64_t j = 0; j < n; ++j) t[j] = static_cast<int64_t>(std::floor(scaled[j] * 0x1p32));
  }
  return {threshold, alias};
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_IMPL(DOM2_OPS, CPU, m) {
  m.impl("sample_transitions", TORCH_BOX(&dom2::ops::sample_transitions));
  m.impl("alias_table", TORCH_BOX(&dom2::ops::alias_table));
}
