// Small passes of training over many tensors, one call each: torch takes a call per tensor for
// them, and with small networks the calls take longer than the numbers.
#include <pybind11/stl.h>

#include <cmath>
#include <vector>

#include "python/python.h"

namespace dom2 {
namespace {

constexpr int kSums = 16;  // under way at once; added up in a fixed order

double squares(const float* p, int64_t n) {
  float sums[kSums] = {};
  double total = 0;
  int64_t i = 0;
  while (i + kSums <= n) {  // in stretches, so that no float32 sum gets long
    const int64_t end = i + (n - i < 1024 ? (n - i) / kSums * kSums : 1024);
    for (; i < end; i += kSums)
      for (int j = 0; j < kSums; ++j) sums[j] += p[i + j] * p[i + j];
    for (float& s : sums) total += s, s = 0;
  }
  for (; i < n; ++i) total += static_cast<double>(p[i]) * p[i];
  return total;
}

// Scales each group's part of the gradients [G, ...], contiguous float32 CPU tensors, to a norm of
// at most `most`, in place.
void clip_groups(const py::list& grads, double most) {
  struct Part {
    float* data;
    int64_t size;  // of one group
  };
  std::vector<Part> parts;
  int64_t groups = 0;
  for (const py::handle g : grads) {
    const auto t = py::reinterpret_borrow<py::object>(g);
    const py::tuple dims = shape(t);
    groups = size(dims, 0);
    int64_t each = 1;
    for (size_t i = 1; i < dims.size(); ++i) each *= size(dims, i);
    parts.push_back({data<float>(t), each});
  }
  py::gil_scoped_release unlocked;
  for (int64_t g = 0; g < groups; ++g) {
    double total = 0;
    for (const Part& p : parts) total += squares(p.data + g * p.size, p.size);
    const float scale = static_cast<float>(most / (std::sqrt(total) + 1e-6));
    if (scale >= 1.f) continue;  // where the norm is not a number, all of the group becomes so
    for (const Part& p : parts) {
      float* to = p.data + g * p.size;
      for (int64_t i = 0; i < p.size; ++i) to[i] *= scale;
    }
  }
}

// out = each block [G, size] of `flat`, one after the other, times its group's scale [G]; float32.
void scale_groups(const py::object& flat, const py::object& out, const std::vector<int64_t>& sizes,
                  const py::object& scale, int64_t groups) {
  const float *from = data<const float>(flat), *by = data<const float>(scale);
  float* to = data<float>(out);
  py::gil_scoped_release unlocked;
  for (const int64_t n : sizes)
    for (int64_t g = 0; g < groups; ++g) {
      const float s = by[g];
      for (int64_t i = 0; i < n; ++i) to[i] = from[i] * s;
      from += n, to += n;
    }
}

double total(const float* p, const int64_t* sizes, const int64_t* strides, size_t dims) {
  if (dims == 0) return *p;
  double sum = 0;
  for (int64_t i = 0; i < sizes[0]; ++i)
    sum += total(p + i * strides[0], sizes + 1, strides + 1, dims - 1);
  return sum;
}

// out[i] = the mean of the i-th tensor, float32 on the CPU, of any strides; summed in float64.
void means(const py::list& tensors, const py::object& out) {
  float* to = data<float>(out);
  std::vector<int64_t> sizes, strides;
  for (const py::handle each : tensors) {
    const auto t = py::reinterpret_borrow<py::object>(each);
    const py::tuple dims = shape(t);
    const auto steps = py::reinterpret_steal<py::tuple>(call(t.ptr(), names().stride).release());
    sizes.clear(), strides.clear();
    int64_t count = 1;
    for (size_t i = 0; i < dims.size(); ++i) {
      sizes.push_back(size(dims, i)), strides.push_back(size(steps, i));
      count *= sizes.back();
    }
    const double sum =
        count ? total(data<const float>(t), sizes.data(), strides.data(), sizes.size()) : 0;
    *to++ = static_cast<float>(sum / static_cast<double>(count));  // of none, not a number
  }
}

}  // namespace

void add_gradients(py::module_& m) {
  m.def("clip_groups", &clip_groups);
  m.def("scale_groups", &scale_groups);
  m.def("means", &means);
}

}  // namespace dom2
