// sample_transitions: weighted draw of transitions and gather of all their fields in one call.
// Defined by dom2_fast.reference.sample_transitions and reference.alias_table.
#include <cmath>

#include "common.h"

namespace dom2 {
namespace ops {
namespace {

constexpr const char* kOp = "dom2_fast::sample_transitions";

cpu::Field check_field(const Tensor& t, size_t number, int64_t rows) {
  const std::string name = "fields[" + std::to_string(number) + "]";
  STD_TORCH_CHECK(t.is_cpu(), kOp, ": ", name, " must be on the CPU in this build");
  const bool is_double = t.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || t.scalar_type() == ScalarType::Float, kOp, ": ", name,
                  " must be float32 or float64");
  STD_TORCH_CHECK((t.dim() == 1 || t.dim() == 2) && t.size(0) == rows, kOp, ": ", name,
                  " has shape ", shape_text(t), ", it must be [", rows, "] or [", rows, ", *]");
  const int64_t width = t.dim() == 2 ? t.size(1) : 1;
  STD_TORCH_CHECK(t.dim() == 1 || width <= 1 || t.stride(1) == 1, kOp, ": ", name,
                  " must have adjacent columns (call .contiguous())");
  return {t.const_data_ptr(), t.stride(0), width, is_double, nullptr};
}

void check_tables(const Tensor& threshold, const Tensor& alias, const Tensor& starts,
                  int64_t groups, int64_t n) {
  const int64_t* s = starts.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(s[0] == 0, kOp, ": starts[0] is ", s[0], ", it must be 0");
  for (int64_t j = 0; j < n; ++j)
    STD_TORCH_CHECK(s[j + 1] > s[j], kOp, ": trajectory ", j, " is empty; starts must increase");
  const int64_t *t = threshold.const_data_ptr<int64_t>(), *a = alias.const_data_ptr<int64_t>();
  for (int64_t j = 0; j < groups * n; ++j)
    STD_TORCH_CHECK(a[j] >= 0 && a[j] < n && t[j] >= 0 && t[j] <= (int64_t{1} << 32), kOp,
                    ": entry ", j, " of the alias table is out of range; make it with alias_table");
}

std::tuple<std::vector<Tensor>, Tensor> sample_transitions(const std::vector<Tensor>& fields,
                                                           const Tensor& threshold,
                                                           const Tensor& alias,
                                                           const Tensor& starts, const Tensor& rng,
                                                           int64_t batch, bool check) {
  const Tensor t = checked(threshold, kOp, "threshold", ScalarType::Long, {-1, -1});
  const int64_t groups = t.size(0), n = t.size(1);
  STD_TORCH_CHECK(groups > 0 && n > 0 && n < (int64_t{1} << 32), kOp, ": threshold has shape ",
                  shape_text(t), "; it needs at least one agent and one trajectory");
  const Tensor a = checked(alias, kOp, "alias", ScalarType::Long, {groups, n});
  const Tensor s = checked(starts, kOp, "starts", ScalarType::Long, {n + 1});
  STD_TORCH_CHECK(batch >= 0, kOp, ": batch is ", batch);
  STD_TORCH_CHECK(!fields.empty() && fields.size() % groups == 0, kOp, ": ", fields.size(),
                  " fields can't be shared out to ", groups, " agents");
  if (check) check_tables(t, a, s, groups, n);
  const int64_t rows = s.const_data_ptr<int64_t>()[n];
  const Seed seed = checked_seed(rng, true, kOp, "transitions");
  std::vector<cpu::Field> list;
  std::vector<Tensor> outs;
  int64_t bytes = 0;
  for (size_t f = 0; f < fields.size(); f += groups) {
    int64_t width = 0;
    for (int64_t g = 0; g < groups; ++g) {
      list.push_back(check_field(fields[f + g], f + g, rows));
      width += list.back().width;
    }
    outs.push_back(empty({batch * width}));
    float* to = outs.back().mutable_data_ptr<float>();
    for (int64_t g = 0; g < groups; ++g) {
      list[f + g].out = to;
      to += batch * list[f + g].width;
    }
    bytes += batch * width * 4;
  }
  Tensor index = empty({groups, batch}, ScalarType::Long);
  cpu::SampleCall c{groups,
                    batch,
                    static_cast<int64_t>(fields.size()) / groups,
                    list.data(),
                    t.const_data_ptr<int64_t>(),
                    a.const_data_ptr<int64_t>(),
                    s.const_data_ptr<int64_t>(),
                    n,
                    seed.seed,
                    seed.offset,
                    index.mutable_data_ptr<int64_t>()};
  const cpu::Kernels& kernels = cpu::active();
  constexpr int64_t kRows = 256, kSerialBytes = 1 << 19;
  const int64_t parts = (batch + kRows - 1) / kRows;
  const auto part = [&](int64_t i) {
    const int64_t row = i % parts * kRows;
    kernels.sample(c, i / parts, row, batch - row < kRows ? batch - row : kRows);
  };
  const cpu::Threads pool = threads();
  if (bytes < kSerialBytes || pool.count == 1)
    for (int64_t i = 0; i < groups * parts; ++i) part(i);
  else
    pool.run(groups * parts, part);
  return {outs, index};
}

std::tuple<Tensor, Tensor> alias_table(const Tensor& weights) {
  constexpr const char* op = "dom2_fast::alias_table";
  const Tensor w = checked(weights, op, "weights", ScalarType::Double, {-1, -1});
  const int64_t groups = w.size(0), n = w.size(1);
  Tensor threshold = empty({groups, n}, ScalarType::Long),
         alias = empty({groups, n}, ScalarType::Long);
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

STABLE_TORCH_LIBRARY_FRAGMENT(dom2_fast, m) {
  m.def(
      "sample_transitions(Tensor[] fields, Tensor threshold, Tensor alias, Tensor starts, "
      "Tensor rng, SymInt batch, bool check) -> (Tensor[] outs, Tensor index)");
  m.def("alias_table(Tensor weights) -> (Tensor threshold, Tensor alias)");
}

STABLE_TORCH_LIBRARY_IMPL(dom2_fast, CPU, m) {
  m.impl("sample_transitions", TORCH_BOX(&dom2::ops::sample_transitions));
  m.impl("alias_table", TORCH_BOX(&dom2::ops::alias_table));
}
