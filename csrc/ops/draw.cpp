#include "draw.h"

namespace dom2 {
namespace ops {
namespace {

DrawnField check_field(const Tensor& t, size_t number, int64_t rows, const Place& place) {
  const std::string name = "fields[" + std::to_string(number) + "]";
  check_place(t, kSampleOp, name, place);
  const bool is_double = t.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || t.scalar_type() == ScalarType::Float, kSampleOp, ": ", name,
                  " must be float32 or float64");
  STD_TORCH_CHECK((t.dim() == 1 || t.dim() == 2) && t.size(0) == rows, kSampleOp, ": ", name,
                  " has shape ", shape_text(t), ", it must be [", rows, "] or [", rows, ", *]");
  const int64_t width = t.dim() == 2 ? t.size(1) : 1;
  STD_TORCH_CHECK(t.dim() == 1 || width <= 1 || t.stride(1) == 1, kSampleOp, ": ", name,
                  " must have adjacent columns (call .contiguous())");
  return {t.const_data_ptr(), t.stride(0), width, is_double, nullptr};
}

}  // namespace

Draw check_draw(const std::vector<Tensor>& fields, const Tensor& threshold, const Tensor& alias,
                const Tensor& starts, const Tensor& rng, int64_t batch) {
  const Place place = place_of(threshold);
  Tensor t = checked(threshold, kSampleOp, "threshold", ScalarType::Long, {-1, -1}, place);
  const int64_t groups = t.size(0), n = t.size(1);
  STD_TORCH_CHECK(groups > 0 && n > 0 && n < (int64_t{1} << 32), kSampleOp,
                  ": threshold has shape ", shape_text(t),
                  "; it needs at least one agent and one trajectory");
  Tensor a = checked(alias, kSampleOp, "alias", ScalarType::Long, {groups, n}, place);
  Tensor s = checked(starts, kSampleOp, "starts", ScalarType::Long, {n + 1}, place);
  STD_TORCH_CHECK(batch >= 0, kSampleOp, ": batch is ", batch);
  STD_TORCH_CHECK(!fields.empty() && fields.size() % groups == 0, kSampleOp, ": ", fields.size(),
                  " fields can't be shared out to ", groups, " agents");
  STD_TORCH_CHECK(fields[0].dim() > 0, kSampleOp, ": fields[0] has no rows");
  // The CPU's tables can be read here, and say better which field is wrong.
  const int64_t rows = place == cpu_place() ? s.const_data_ptr<int64_t>()[n] : fields[0].size(0);
  Draw out{place,
           std::move(t),
           std::move(a),
           std::move(s),
           empty({groups, batch}, place, ScalarType::Long),
           checked_seed(rng, true, kSampleOp, "transitions", place),
           groups,
           n,
           rows};
  for (size_t f = 0; f < fields.size(); f += groups) {
    int64_t width = 0;
    for (int64_t g = 0; g < groups; ++g) {
      out.fields.push_back(check_field(fields[f + g], f + g, rows, place));
      width += out.fields.back().width;
    }
    out.outs.push_back(empty({batch * width}, place));
    float* to = out.outs.back().mutable_data_ptr<float>();
    for (int64_t g = 0; g < groups; ++g) {
      out.fields[f + g].out = to;
      to += batch * out.fields[f + g].width;
    }
  }
  return out;
}

void check_tables(const int64_t* threshold, const int64_t* alias, const int64_t* starts,
                  int64_t groups, int64_t n) {
  STD_TORCH_CHECK(starts[0] == 0, kSampleOp, ": starts[0] is ", starts[0], ", it must be 0");
  for (int64_t j = 0; j < n; ++j)
    STD_TORCH_CHECK(starts[j + 1] > starts[j], kSampleOp, ": trajectory ", j,
                    " is empty; starts must increase");
  for (int64_t j = 0; j < groups * n; ++j)
    STD_TORCH_CHECK(
        alias[j] >= 0 && alias[j] < n && threshold[j] >= 0 && threshold[j] <= (int64_t{1} << 32),
        kSampleOp, ": entry ", j, " of the alias table is out of range; make it with alias_table");
}

}  // namespace ops
}  // namespace dom2
