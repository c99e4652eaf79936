// Steps many copies of a simulation without Python's lock in between. Python gives the addresses
// of the simulator's function and of each copy's model and data, so nothing of it is linked here.
#include <pybind11/stl.h>

#include <vector>

#include "python/python.h"

namespace dom2 {
namespace {

using Step = void (*)(const void* model, void* data);

// `times` calls of step(model, data) for each copy, then one of `after`, where it isn't null.
void step_copies(uintptr_t step, uintptr_t after, const std::vector<uintptr_t>& models,
                 const std::vector<uintptr_t>& data, int times) {
  if (models.size() != data.size() || step == 0) throw py::value_error("a copy lacks its model");
  py::gil_scoped_release unlocked;
  for (size_t i = 0; i < data.size(); ++i) {
    const void* model = reinterpret_cast<const void*>(models[i]);
    void* copy = reinterpret_cast<void*>(data[i]);
    for (int n = 0; n < times; ++n) reinterpret_cast<Step>(step)(model, copy);
    if (after) reinterpret_cast<Step>(after)(model, copy);
  }
}

}  // namespace

void add_physics(py::module_& m) { m.def("step_copies", &step_copies); }

}  // namespace dom2
