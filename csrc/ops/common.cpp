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

Place cpu_place() { return {aoti_torch_device_type_cpu(), 0}; }

Place place_of(const Tensor& t) {
  if (t.is_cpu()) return cpu_place();
  Place p{};
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &p.type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &p.index));
  return p;
}

namespace {

std::string place_text(const Place& p) {
  if (p.type == aoti_torch_device_type_cpu()) return "the CPU";
  if (p.type == aoti_torch_device_type_cuda()) return "cuda:" + std::to_string(p.index);
  return "another device";
}

}  // namespace

void check_place(const Tensor& t, const char* op, const std::string& name, const Place& place) {
  if (t.is_cpu() && place.type == aoti_torch_device_type_cpu()) return;
  const Place given = place_of(t);
  STD_TORCH_CHECK(given == place, op, ": ", name, " is on ", place_text(given), ", it must be on ",
                  place_text(place), "; move it with .to()");
}

Tensor checked(const Tensor& t, const char* op, const char* name, ScalarType dtype,
               const Shape& shape, const Place& place) {
  check_place(t, op, name, place);
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

Seed checked_seed(const std::optional<Tensor>& rng, bool needed, const char* op, const char* why,
                  const Place& place) {
  Seed s;
  if (!rng) {
    STD_TORCH_CHECK(!needed, op, ": rng is missing; it is needed to draw ", why);
    return s;
  }
  if (!rng->is_cpu() || kEmulated) {
    s.on_device = checked(*rng, op, "rng", ScalarType::Long, {2}, place);
    return s;
  }
  const Tensor t = checked(*rng, op, "rng", ScalarType::Long, {2}, cpu_place());
  const int64_t* v = t.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(v[1] >= 0 && v[1] < (int64_t{1} << 32), op, ": the offset in rng is ", v[1],
                  ", it must lie in [0, 2**32)");
  s.seed = static_cast<uint64_t>(v[0]);
  s.offset = static_cast<uint32_t>(v[1]);
  return s;
}

Tensor empty(const Shape& shape, const Place& place, ScalarType dtype) {
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
                                                         place.type, place.index, &handle));
  return Tensor(handle);
}

const Compiled& compiled(const Tensor& program, const char* op) {
  constexpr size_t kKept = 64;
  thread_local std::list<Compiled> kept;  // most recent first
  const Tensor t = checked(program, op, "program", ScalarType::Long, {-1}, cpu_place());
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
                   const char* op, const Place& place) {
  STD_TORCH_CHECK(weights.size() == p.n.size(), op, ": the program has ", p.n.size(),
                  " weights, given are ", weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& w = weights[i];
    const std::string name = "weights[" + std::to_string(i) + "]";
    check_place(w, op, name, place);
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

std::optional<Tensor> checked_cond(const std::optional<Tensor>& cond, const char* op,
                                   const Program& p, int64_t groups, int64_t rows,
                                   const Place& place) {
  const int width = p.buffers[1];
  if (width == 0) return {};
  STD_TORCH_CHECK(cond.has_value(), op, ": cond is missing; the program reads ", width,
                  " columns of it");
  return checked(*cond, op, "cond", ScalarType::Float, {groups, rows, width}, place);
}

void check_cond(const std::optional<Tensor>& cond, const char* op, Arguments& a) {
  a.cond = checked_cond(cond, op, a.program(), a.groups, -1, a.place);
  if (!a.cond) return;
  const int64_t given = a.cond->size(1);
  STD_TORCH_CHECK(a.batch == given || (given > 0 && a.batch % given == 0), op, ": ", given,
                  " condition vectors can't serve a batch of ", a.batch, "; it must be a multiple");
  if (given > 0 && a.batch > 0) a.repeat = a.batch / given;
}

Arguments check_denoise(const char* op, const std::optional<Tensor>& cond, const Tensor& table,
                        const Tensor& program, const Tensor& solver,
                        const std::optional<Tensor>& noise, const std::optional<Tensor>& rng,
                        bool draws_x, int64_t batch) {
  Arguments a{};
  a.compiled = &compiled(program, op);
  a.place = place_of(table);
  a.batch = batch;
  const Program& p = a.program();
  a.table = checked(table, op, "table", ScalarType::Float, {-1, -1, p.table_width}, a.place);
  a.steps = a.table->size(0);
  a.groups = a.table->size(1);
  STD_TORCH_CHECK(a.steps > 0 && a.groups > 0, op, ": table needs at least one step and one group");
  const int64_t steps = p.buffers[0] ? a.steps : 0;  // a program without x acts in one pass
  STD_TORCH_CHECK(p.out.width == p.buffers[0] || !steps, op, ": the program returns ", p.out.width,
                  " columns for an x of ", p.buffers[0], "; a noise network returns as many");
  STD_TORCH_CHECK(steps || a.steps == 1, op, ": table has ", a.steps,
                  " steps, the program has no x and takes one pass");
  const Tensor rows =
      checked(solver, op, "solver", ScalarType::Double, {steps, kSolverColumns}, cpu_place());
  if (steps) a.solver = rows;
  STD_TORCH_CHECK(batch >= 0, op, ": batch is ", batch);
  check_cond(cond, op, a);
  if (noise)
    a.noise = checked(*noise, op, "noise", ScalarType::Float,
                      {steps, a.groups, batch, p.buffers[0]}, a.place);
  const double* c = steps ? a.solver->const_data_ptr<double>() : nullptr;
  bool draws = (draws_x && steps) || p.sites > 0;
  for (int64_t s = 0; s < steps; ++s) draws |= !noise && c[s * kSolverColumns + 5] != 0.0;
  a.seed = checked_seed(rng, draws, op, "x_T, noise or dropout masks", a.place);
  return a;
}

Start check_start(const char* op, const std::optional<Tensor>& x_T,
                  const std::optional<Tensor>& cond, const std::vector<Tensor>& weights,
                  const Tensor& table, const Tensor& program, const Tensor& solver,
                  const std::optional<Tensor>& noise, const std::optional<Tensor>& rng, bool packed,
                  const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(size.size() == 2, op, ": size has ", size.size(), " entries, it is [B, A]");
  Arguments a =
      check_denoise(op, cond, table, program, solver, noise, rng, !x_T.has_value(), size[0]);
  if (!packed) check_weights(weights, a.program(), a.groups, op, a.place);
  const int64_t width = a.program().buffers[0], out = a.program().out.width;
  STD_TORCH_CHECK(size[1] == out, op, ": size asks for ", size[1], " columns, the program has ",
                  out);
  std::optional<Tensor> x;
  if (x_T) x = checked(*x_T, op, "x_T", ScalarType::Float, {a.groups, a.batch, width}, a.place);
  return {std::move(a), std::move(x)};
}

End check_end(const char* op, const Tensor& grad_out, const Tensor& path,
              const std::optional<Tensor>& cond, const std::vector<Tensor>& weights,
              const Tensor& table, const Tensor& program, const Tensor& solver,
              const std::optional<Tensor>& noise, const std::optional<Tensor>& rng) {
  Arguments a = check_denoise(op, cond, table, program, solver, noise, rng, false, path.size(2));
  check_weights(weights, a.program(), a.groups, op, a.place);
  const int64_t width = a.program().buffers[0];
  Tensor go =
      checked(grad_out, op, "grad_out", ScalarType::Float, {a.groups, a.batch, width}, a.place);
  Tensor saved = checked(path, op, "path", ScalarType::Float,
                         {a.steps + 1, a.groups, a.batch, width}, a.place);
  return {std::move(a), std::move(go), std::move(saved)};
}

Arguments check_pass(const char* op, const Tensor& table, const Tensor& program,
                     const std::vector<Tensor>& weights, const std::optional<Tensor>& rng,
                     int64_t groups, const PassNames& names) {
  Arguments a{};
  a.compiled = &compiled(program, op);
  a.place = place_of(table);
  a.steps = 1;
  const Program& p = a.program();
  a.table = checked(table, op, names.table, ScalarType::Float, {1, groups, p.table_width}, a.place);
  a.groups = a.table->size(1);
  STD_TORCH_CHECK(a.groups > 0, op, ": table needs at least one group");
  check_weights(weights, p, a.groups, names.weights_of ? names.weights_of : op, a.place);
  a.seed = checked_seed(rng, p.sites > 0, op, names.masks, a.place);
  return a;
}

Input check_program(const char* op, const Tensor& x, const std::optional<Tensor>& cond,
                    const std::vector<Tensor>& weights, const Tensor& table, const Tensor& program,
                    const std::optional<Tensor>& rng) {
  Arguments a = check_pass(op, table, program, weights, rng);
  Tensor in =
      checked(x, op, "x", ScalarType::Float, {a.groups, -1, a.program().buffers[0]}, a.place);
  a.batch = in.size(1);
  check_cond(cond, op, a);
  return {std::move(a), std::move(in)};
}

bool check_precision(const char* op, int64_t precision) {
  STD_TORCH_CHECK(precision == 0 || precision == 1, op, ": precision is ", precision,
                  ", it must be 0 (fp32) or 1 (bf16)");
  return precision == 1;
}

void check_out_width(const char* op, int64_t given, int64_t width) {
  STD_TORCH_CHECK(given == width, op, ": out_width is ", given, ", the program returns ", width,
                  " columns");
}

}  // namespace ops
}  // namespace dom2
