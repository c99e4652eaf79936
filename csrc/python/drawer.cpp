// Drawing batches without the way through torch's dispatcher, whose lists of tensors take a third
// of a small draw's time.
#include <vector>

#include "ops/cpu.h"
#include "python/python.h"

namespace dom2 {
namespace {

// One data set with its tables, checked by a call of the op before. Fields of equal shapes for all
// agents: [N] or [N, d].
class Drawer {
 public:
  // fields: field-major. floats: torch.empty; longs: the same for int64.
  Drawer(const py::list& fields, const py::object& threshold, const py::object& alias,
         const py::object& starts, py::object floats, py::object longs,
         const py::object& double_type)
      : held_(fields), tables_{threshold, alias, starts}, floats_(floats), longs_(longs) {
    const py::tuple given = shape(threshold);
    call_.groups = size(given, 0);
    call_.trajectories = size(given, 1);
    call_.threshold = data<const int64_t>(threshold);
    call_.alias = data<const int64_t>(alias);
    call_.starts = data<const int64_t>(starts);
    call_.fields = static_cast<int64_t>(fields.size()) / call_.groups;
    for (const py::handle f : fields) {
      const auto t = py::reinterpret_borrow<py::object>(f);
      const py::tuple dims = shape(t);
      const py::tuple strides = call(t.ptr(), names().stride);
      cpu::Field field{};
      field.data = data<const void>(t);
      field.row = size(strides, 0);
      field.width = dims.size() > 1 ? size(dims, 1) : 1;
      field.is_double = attribute(t.ptr(), names().dtype).is(double_type);
      fields_.push_back(field);
      flat_.push_back(dims.size() == 1);
    }
  }

  // ([field: [G, B, ...]], index [G, B]) as the op gives them.
  py::tuple draw(int64_t batch, const py::object& rng) const {
    cpu::SampleCall c = call_;
    c.batch = batch;
    read_rng(rng, c.seed, c.offset);
    const int64_t groups = c.groups;
    std::vector<cpu::Field> fields = fields_;
    py::list outs;
    for (int64_t f = 0; f < c.fields; ++f) {
      const int64_t width = fields[f * groups].width;
      const py::object out = flat_[f * groups] ? floats_(py::make_tuple(groups, batch))
                                               : floats_(py::make_tuple(groups, batch, width));
      float* to = data<float>(out);
      for (int64_t g = 0; g < groups; ++g) fields[f * groups + g].out = to + g * batch * width;
      outs.append(out);
    }
    py::object index = longs_(py::make_tuple(groups, batch));
    c.index = data<int64_t>(index);
    c.field = fields.data();
    {
      py::gil_scoped_release unlocked;
      cpu::sample_transitions(cpu::active(), c, ops::threads());
    }
    return py::make_tuple(outs, index);
  }

 private:
  cpu::SampleCall call_{};
  std::vector<cpu::Field> fields_;
  std::vector<bool> flat_;
  py::list held_;
  py::object tables_[3], floats_, longs_;
};

}  // namespace

void add_drawer(py::module_& m) {
  py::class_<Drawer>(m, "Drawer")
      .def(py::init<const py::list&, const py::object&, const py::object&, const py::object&,
                    py::object, py::object, const py::object&>())
      .def("draw", &Drawer::draw);
}

}  // namespace dom2
