#include "common.h"

#include <algorithm>
#include <list>

namespace dom2 {
namespace ops {

std::string shape_text(const Tensor& t) {
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); ++i) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + "]";
}

namespace {

const char* dtype_name(ScalarType t) {
  switch (t) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Long:
      return "int64";
    default:
      return "another dtype";
  }
}

}  // namespace

Tensor checked(const Tensor& t, const char* op, const char* name, ScalarType dtype,
               const Shape& shape) {
  STD_TORCH_CHECK(t.is_cpu(), op, ": ", name, " must be on the CPU in this build");
  STD_TORCH_CHECK(t.scalar_type() == dtype, op, ": ", name, " is ", dtype_name(t.scalar_type()),
                  ", it must be ", dtype_name(dtype),
                  "; other dtypes run on the reference path (backend=\"reference\")");
  bool fits = t.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i)
    fits = shape[i] < 0 || t.size(static_cast<int64_t>(i)) == shape[i];
  if (!fits) {
    std::string want = "[";
    for (size_t i = 0; i < shape.size(); ++i)
      want += (i ? ", " : "") + (shape[i] < 0 ? std::string("*") : std::to_string(shape[i]));
    STD_TORCH_CHECK(false, op, ": ", name, " has shape ", shape_text(t), ", it must be ", want,
                    "]");
  }
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

Seed checked_seed(const std::optional<Tensor>& rng, bool needed, const char* op, const char* why) {
  Seed s;
  if (!rng) {
    STD_TORCH_CHECK(!needed, op, ": rng is missing; it is needed to draw ", why);
    return s;
  }
  const Tensor t = checked(*rng, op, "rng", ScalarType::Long, {2});
  const int64_t* v = t.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(v[1] >= 0 && v[1] < (int64_t{1} << 32), op, ": the offset in rng is ", v[1],
                  ", it must lie in [0, 2**32)");
  return {static_cast<uint64_t>(v[0]), static_cast<uint32_t>(v[1])};
}

Tensor empty(const Shape& shape, ScalarType dtype) {
  // The C function, not torch::stable::empty: that one goes through the dispatcher, 2 us a call.
  Shape strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  const int32_t code =
      dtype == ScalarType::Long ? aoti_torch_dtype_int64() : aoti_torch_dtype_float32();
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()),
                                                         shape.data(), strides.data(), code,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

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

const Compiled& compiled(const Tensor& program, const char* op) {
  constexpr size_t kKept = 64;
  thread_local std::list<Compiled> kept;  // most recent first
  const Tensor t = checked(program, op, "program", ScalarType::Long, {-1});
  const int64_t* words = t.const_data_ptr<int64_t>();
  const size_t n = static_cast<size_t>(t.numel());
  for (auto it = kept.begin(); it != kept.end(); ++it)
    if (it->words.size() == n && std::equal(words, words + n, it->words.begin())) {
      if (it != kept.begin()) kept.splice(kept.begin(), kept, it);
      return kept.front();
    }
  Program decoded;
  const std::string why = decode(words, static_cast<int64_t>(n), decoded);
  STD_TORCH_CHECK(why.empty(), op, ": program is not valid: ", why);
  kept.emplace_front();
  Compiled& c = kept.front();
  c.words.assign(words, words + n);
  c.program = std::move(decoded);
  c.forward.emplace(c.program, false);
  c.backward.emplace(c.program, true);
  if (kept.size() > kKept) kept.pop_back();
  return c;
}

void check_weights(const std::vector<Tensor>& weights, const Program& p, int64_t groups,
                   const char* op) {
  STD_TORCH_CHECK(weights.size() == p.n.size(), op, ": the program has ", p.n.size(),
                  " weights, given are ", weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& w = weights[i];
    const std::string name = "weights[" + std::to_string(i) + "]";
    STD_TORCH_CHECK(w.is_cpu(), op, ": ", name, " must be on the CPU in this build");
    STD_TORCH_CHECK(w.scalar_type() == ScalarType::Float, op, ": ", name, " is ",
                    dtype_name(w.scalar_type()),
                    ", it must be float32; other dtypes run on the "
                    "reference path (backend=\"reference\")");
    STD_TORCH_CHECK(
        w.dim() == 3 && w.size(0) == groups && w.size(1) == p.n[i] && w.size(2) == p.k[i], op, ": ",
        name, " has shape ", shape_text(w), ", it must be [", groups, ", ", p.n[i], ", ", p.k[i],
        "]");
  }
}

std::optional<Tensor> check_rows(const std::optional<Tensor>& rows, const Program& p,
                                 int64_t groups, int64_t batch, const char* op, cpu::Call& call) {
  call.repeat = 1;
  const int width = p.buffers[1];
  if (width == 0) return std::nullopt;
  STD_TORCH_CHECK(rows.has_value(), op, ": rows are missing; the program reads ", width,
                  " columns of them");
  const Tensor kept = checked(*rows, op, "rows", ScalarType::Float, {groups, -1, width});
  const int64_t given = kept.size(1);
  STD_TORCH_CHECK(batch == given || (given > 0 && batch % given == 0), op, ": ", given,
                  " rows can't serve a batch of ", batch, "; it must be a multiple");
  if (given > 0 && batch > 0) call.repeat = batch / given;
  call.rows = kept.const_data_ptr<float>();
  return kept;
}

void pack_all(const std::vector<Tensor>& weights, const Exec& e, int64_t groups, bool transposed,
              float* out) {
  const int64_t size = transposed ? e.packed_t_size : e.packed_size;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& t = weights[i];
    const Weight& w = e.weights[i];
    for (int64_t g = 0; g < groups; ++g) {
      const float* data = t.const_data_ptr<float>() + g * t.stride(0);
      float* to = out + g * size + (transposed ? w.packed_t : w.packed);
      if (transposed)
        cpu::pack({data, t.stride(2), t.stride(1)}, w.k, w.n, to);
      else
        cpu::pack({data, t.stride(1), t.stride(2)}, w.n, w.k, to);
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_backward(const Program& p, const Plan& plan,
                                                        cpu::Call& c, const Tensor& grad_out,
                                                        const std::vector<Tensor>& weights,
                                                        bool need_x, bool need_rows,
                                                        bool need_weights, bool need_table) {
  const Exec& e = plan.exec;
  thread_local cpu::Arena arena;
  const int64_t forward_size = c.groups * e.packed_size;
  float* room = arena.floats(forward_size + c.groups * e.packed_t_size + 2 * cpu::kPanel);
  pack_all(weights, e, c.groups, false, room);
  pack_all(weights, e, c.groups, true, room + forward_size);
  c.packed = room;
  int64_t weights_size = 0;
  for (size_t i = 0; i < p.n.size(); ++i) weights_size += c.groups * p.n[i] * p.k[i];
  Tensor gx = empty({need_x ? c.groups : 0, c.batch, e.x_width});
  Tensor grows = empty({need_rows ? c.groups : 0, c.batch, e.rows_width});
  Tensor gw = empty({need_weights ? weights_size : 0});
  Tensor gt = empty({need_table ? c.steps : 0, c.groups, p.table_width});
  if (need_table) torch::stable::zero_(gt);
  cpu::BackwardCall b{};
  b.grad_out = grad_out.const_data_ptr<float>();
  b.packed_t = room + forward_size;
  b.grad_x = need_x ? gx.mutable_data_ptr<float>() : nullptr;
  b.grad_rows = need_rows ? grows.mutable_data_ptr<float>() : nullptr;
  cpu::Gradients out{need_weights ? gw.mutable_data_ptr<float>() : nullptr,
                     need_table ? gt.mutable_data_ptr<float>() : nullptr, p.table_width};
  cpu::denoise_backward(cpu::active(), plan, c, b, out, threads());
  return {gx, grows, gw, gt};
}

}  // namespace ops
}  // namespace dom2
