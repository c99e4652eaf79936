// Acting without the way through torch's dispatcher: for a handful of rows that way takes as long
// as the network.

#include <pybind11/stl.h>

#include <cstring>
#include <vector>

#include "cpu/pack.h"
#include "cpu/run.h"
#include "ops/cpu.h"
#include "python/python.h"

namespace dom2 {
namespace {

// Has any of a module's entries or tensors changed? lowering/stamp.py fills it and says what
// counts.
class Watch {
 public:
  // entries: (dict, key, value). tensors: (tensor, version, address of the data). ends: (address,
  // bytes) of single elements to compare, within those tensors.
  Watch(const py::list& entries, const py::list& tensors, const py::list& ends) {
    for (const py::handle e : entries) {
      const auto t = py::cast<py::tuple>(e);
      entries_.push_back({t[0].cast<py::dict>(), t[1], t[2]});
    }
    for (const py::handle e : tensors) {
      const auto t = py::cast<py::tuple>(e);
      tensors_.push_back({t[0], t[1].cast<int64_t>(), t[2].cast<uintptr_t>()});
    }
    for (const py::handle e : ends) {
      const auto t = py::cast<py::tuple>(e);
      End end{reinterpret_cast<const void*>(t[0].cast<uintptr_t>()), t[1].cast<size_t>(), 0};
      if (end.size > sizeof end.value) throw py::value_error("an element has at most 8 bytes");
      std::memcpy(&end.value, end.at, end.size);
      ends_.push_back(end);
    }
  }

  bool fresh() const {
    for (const Entry& e : entries_)
      if (PyDict_GetItemWithError(e.in.ptr(), e.key.ptr()) != e.value.ptr()) {
        if (PyErr_Occurred()) throw py::error_already_set();
        return false;
      }
    for (const Tensor& t : tensors_) {
      if (PyLong_AsLongLong(attribute(t.tensor.ptr(), names().version).ptr()) != t.version ||
          reinterpret_cast<uintptr_t>(data<void>(t.tensor)) != t.at)
        return false;
    }
    // Only now: the memory is still that of the tensors.
    for (const End& e : ends_)
      if (std::memcmp(e.at, &e.value, e.size) != 0) return false;
    return true;
  }

 private:
  struct Entry {
    py::dict in;
    py::object key, value;
  };
  struct Tensor {
    py::object tensor;
    int64_t version;
    uintptr_t at;
  };
  struct End {
    const void* at;
    size_t size;
    uint64_t value;
  };
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
  std::vector<End> ends_;
};

// One policy as it is now: samples a few rows on the calling thread.
class Actor {
 public:
  // words: of the program; bf16: bf16 products; table [steps, groups, width], solver [steps, 9]
  // ([0, 9]: one pass, table [1, groups, width]) and packed [groups, n] (ops.pack_weights):
  // contiguous CPU tensors. make_rng(generator) and empty(shape) are torch's.
  Actor(const std::vector<int64_t>& words, const py::object& table, const py::object& solver,
        const py::object& packed, bool bf16, bool stacked, double low, double high,
        py::object watch, py::object make_rng, py::object empty, py::object tensor_type,
        py::object dtype)
      : plan_(decoded(words), false),
        packed_(packed),
        stacked_(stacked),
        watch_(std::move(watch)),
        make_rng_(std::move(make_rng)),
        empty_(std::move(empty)),
        tensor_type_(std::move(tensor_type)),
        dtype_(std::move(dtype)) {
    const py::tuple given = shape(table);
    call_.exec = &plan_.exec;
    call_.steps = size(given, 0);
    call_.groups = size(given, 1);
    const int width = static_cast<int>(size(given, 2));
    table_.resize(call_.steps * call_.groups * plan_.exec.table_ld);
    dom2::cpu::pad_table(plan_, data<const float>(table), width, call_.steps * call_.groups,
                         table_.data());
    const int64_t steps = size(dom2::shape(solver), 0);
    const double* rows = data<const double>(solver);
    solver_.assign(rows, rows + steps * dom2::kSolverColumns);
    call_.repeat = 1;
    call_.bf16 = bf16;
    call_.table = table_.data();
    call_.solver = steps ? solver_.data() : nullptr;
    call_.packed = data<const float>(packed);
    call_.out_low = low;
    call_.out_high = high;
    for (size_t i = 0; i < plan_.weights.size(); ++i)
      flops_ += 2.0 * plan_.weights[i].n * plan_.weights[i].k * call_.steps;
    draws_ = plan_.exec.sites > 0;
    for (int64_t s = 0; s < steps; ++s)
      draws_ = draws_ || solver_[s * dom2::kSolverColumns + 5] != 0.0;
  }

  // Actions [..., A] for obs [..., O], or None where the ordinary way must be taken: something has
  // changed since, obs or x_T isn't what this takes, or there is work for more than one thread.
  py::object sample(const py::object& obs, const py::object& x_T, const py::object& generator) {
    if (!watch_.is_none() && !watch_.cast<const Watch&>().fresh()) return py::none();
    const dom2::Exec& e = plan_.exec;
    if (!plain(obs)) return py::none();
    const py::tuple shape = dom2::shape(obs);
    const size_t dims = shape.size();
    if (dims < 1 || dims > 3 || (dims == 3) != stacked_) return py::none();
    const int64_t width = size(shape, dims - 1), batch = dims == 1 ? 1 : size(shape, dims - 2);
    if (width != e.cond_width || (stacked_ && size(shape, 0) != call_.groups)) return py::none();
    const double work = flops_ * static_cast<double>(batch * call_.groups);
    const bool little = work <= kLittle;
    if (batch < 1 || work > kMost || (!little && ops::threads().count > 1)) return py::none();
    py::tuple out_shape(dims);
    for (size_t i = 0; i + 1 < dims; ++i) out_shape[i] = shape[i];
    out_shape[dims - 1] = e.out_width;
    dom2::cpu::Call c = call_;
    if (!x_T.is_none()) {
      if (!c.solver || !plain(x_T) || !dom2::shape(x_T).equal(out_shape)) return py::none();
      c.x = data<const float>(x_T);
    }
    c.batch = batch;
    c.cond = data<const float>(obs);
    if ((c.solver && !c.x) || draws_) {
      const py::object rng = make_rng_(generator);
      if (!attribute(rng.ptr(), names().is_cpu).is(py::handle(Py_True))) return py::none();
      read_rng(rng, c.seed, c.offset);
    }
    py::object out = empty_(out_shape);
    c.out = data<float>(out);
    if (little) {
      dom2::cpu::denoise(dom2::cpu::active(), c, {});
    } else {
      const py::gil_scoped_release unlocked;
      dom2::cpu::denoise(dom2::cpu::active(), c, {});
    }
    return out;
  }

 private:
  // Below this one thread is as quick as two, and the call not worth letting other threads run.
  static constexpr double kLittle = 6e6;
  // Above it the ordinary way takes no visible part of the time.
  static constexpr double kMost = 1e9;

  static dom2::Program decoded(const std::vector<int64_t>& words) {
    dom2::Program program;
    const std::string why = dom2::decode(words.data(), static_cast<int64_t>(words.size()), program);
    if (!why.empty()) throw py::value_error(why);
    return program;
  }

  // A contiguous float32 CPU tensor, and no subclass, which may mean something else by it.
  bool plain(const py::object& t) const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(t.ptr())) != tensor_type_.ptr()) return false;
    const Names& n = names();
    if (attribute(t.ptr(), n.dtype).ptr() != dtype_.ptr()) return false;
    if (attribute(t.ptr(), n.is_cpu).ptr() != Py_True) return false;
    return call(t.ptr(), n.contiguous).ptr() == Py_True;
  }

  dom2::Plan plan_;
  std::vector<float> table_;
  std::vector<double> solver_;
  dom2::cpu::Call call_{};
  py::object packed_;
  bool stacked_, draws_ = false;
  double flops_ = 0;
  py::object watch_, make_rng_, empty_, tensor_type_, dtype_;
};

}  // namespace

void add_actor(py::module_& m) {
  py::class_<Watch>(m, "Watch")
      .def(py::init<const py::list&, const py::list&, const py::list&>())
      .def("fresh", &Watch::fresh);
  py::class_<Actor>(m, "Actor")
      .def(py::init<const std::vector<int64_t>&, const py::object&, const py::object&,
                    const py::object&, bool, bool, double, double, py::object, py::object,
                    py::object, py::object, py::object>())
      .def("sample", &Actor::sample);
}

}  // namespace dom2
