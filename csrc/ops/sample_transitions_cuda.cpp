// sample_transitions on CUDA. Defined by dom2_fast.ops.reference.sample_transitions.
#include "cuda.h"
#include "draw.h"

namespace dom2 {
namespace ops {
namespace {

// Floats that one access can take, of the rows of a table and of the results.
int8_t vector_of(const DrawnField& f) {
  const auto fits = [&](int n) {
    return f.width % n == 0 && f.row % n == 0 &&
           reinterpret_cast<uintptr_t>(f.data) % (4 * n) == 0 &&
           reinterpret_cast<uintptr_t>(f.out) % (4 * n) == 0;
  };
  return fits(4) ? 4 : fits(2) ? 2 : 1;
}

std::tuple<std::vector<Tensor>, Tensor> sample_transitions(const std::vector<Tensor>& fields,
                                                           const Tensor& threshold,
                                                           const Tensor& alias,
                                                           const Tensor& starts, const Tensor& rng,
                                                           int64_t batch, bool check) {
  Draw in = check_draw(fields, threshold, alias, starts, rng, batch);
  if (check) {  // reads back: callers that draw again and again check once
    const auto host = [](const Tensor& t) {
      return torch::stable::to(t, torch::stable::Device(torch::headeronly::DeviceType::CPU));
    };
    const Tensor t = host(in.threshold), a = host(in.alias), s = host(in.starts);
    const int64_t* end = s.const_data_ptr<int64_t>();
    check_tables(t.const_data_ptr<int64_t>(), a.const_data_ptr<int64_t>(), end, in.groups,
                 in.trajectories);
    STD_TORCH_CHECK(end[in.trajectories] == in.rows, kSampleOp, ": fields[0] has ", in.rows,
                    " rows, starts ends at ", end[in.trajectories]);
  }
  STD_TORCH_CHECK(in.fields.size() <= cuda::kMaxFields && in.groups <= 65535, kSampleOp, ": ",
                  in.fields.size(), " fields; one launch takes up to ", cuda::kMaxFields,
                  " and 65535 agents. Draw fewer at once, with the same rng");
  const CudaScope scope(in.place);
  auto s = std::make_unique<cuda::Sample>();
  for (size_t i = 0; i < in.fields.size(); ++i) {
    const DrawnField& f = in.fields[i];
    s->field[i] = {f.data, f.row, f.out, static_cast<int>(f.width), f.is_double, vector_of(f)};
  }
  s->groups = in.groups;
  s->batch = batch;
  s->fields = static_cast<int64_t>(in.fields.size()) / in.groups;
  s->threshold = in.threshold.const_data_ptr<int64_t>();
  s->alias = in.alias.const_data_ptr<int64_t>();
  s->starts = in.starts.const_data_ptr<int64_t>();
  s->trajectories = in.trajectories;
  s->rng = in.seed.on_device ? in.seed.on_device->const_data_ptr<int64_t>() : nullptr;
  s->seed = in.seed.seed;
  s->offset = in.seed.offset;
  s->index = in.index.mutable_data_ptr<int64_t>();
  check_ran(cuda::failure("sample_transitions",
                          cuda::launch_sample_transitions(*s, scope.context().stream)),
            kSampleOp);
  return {std::move(in.outs), in.index};
}

}  // namespace
}  // namespace ops
}  // namespace dom2

STABLE_TORCH_LIBRARY_IMPL(DOM2_OPS, DOM2_DEVICE_KEY, m) {
  m.impl("sample_transitions", TORCH_BOX(&dom2::ops::sample_transitions));
}
