// Acting without the way through torch's dispatcher: for a handful of rows that way takes as long
// as the network. Part of the Python module (bindings.cpp).
#pragma once
#include <pybind11/pybind11.h>

void add_actor(pybind11::module_& m);
