// Reading torch's tensors through their Python faces, for what skips the dispatcher (actor.cpp,
// drawer.cpp). Names are interned once; errors of Python are thrown.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

namespace dom2 {

namespace py = pybind11;

struct Names {
  static PyObject* name(const char* text) { return PyUnicode_InternFromString(text); }
  PyObject *version = name("_version"), *data_ptr = name("data_ptr"), *dtype = name("dtype"),
           *shape = name("shape"), *is_cpu = name("is_cpu"), *contiguous = name("is_contiguous"),
           *stride = name("stride");
};

inline const Names& names() {
  static const Names* all = new Names;  // lives as long as the interpreter
  return *all;
}

inline py::object attribute(PyObject* of, PyObject* name) {
  PyObject* value = PyObject_GetAttr(of, name);
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

inline py::object call(PyObject* of, PyObject* name) {
  PyObject* value = PyObject_CallMethodNoArgs(of, name);
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// Where a tensor's data starts.
template <class T>
T* data(const py::object& tensor) {
  return static_cast<T*>(PyLong_AsVoidPtr(call(tensor.ptr(), names().data_ptr).ptr()));
}

inline int64_t size(const py::tuple& shape, size_t at) {
  return PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(at)));
}

inline py::tuple shape(const py::object& tensor) {
  return py::reinterpret_steal<py::tuple>(attribute(tensor.ptr(), names().shape).release());
}

// (seed, offset) of an int64 [2] CPU tensor.
inline void read_rng(const py::object& rng, uint64_t& seed, uint32_t& offset) {
  const int64_t* words = data<const int64_t>(rng);
  seed = static_cast<uint64_t>(words[0]);
  offset = static_cast<uint32_t>(words[1]);
}

void add_actor(py::module_& m);
void add_drawer(py::module_& m);
void add_gradients(py::module_& m);
void add_physics(py::module_& m);

}  // namespace dom2
