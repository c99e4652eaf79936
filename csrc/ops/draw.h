// The arguments of sample_transitions, checked, and its results: shared by all devices.
#pragma once
#include "common.h"

namespace dom2 {
namespace ops {

constexpr const char* kSampleOp = "dom2_fast::sample_transitions";

// One field of one agent: rows of `width` numbers, `row` numbers apart, gathered into `out`.
struct DrawnField {
  const void* data;
  int64_t row, width;
  bool is_double;  // else float
  float* out;      // [batch, width]
};

struct Draw {
  Place place;
  Tensor threshold, alias, starts, index;  // index: [groups, batch], a result
  Seed seed;
  int64_t groups, trajectories, rows;
  std::vector<DrawnField> fields = {};  // field-major
  std::vector<Tensor> outs = {};        // one flat tensor per field
};

Draw check_draw(const std::vector<Tensor>& fields, const Tensor& threshold, const Tensor& alias,
                const Tensor& starts, const Tensor& rng, int64_t batch);

// The values of the tables, in host memory.
void check_tables(const int64_t* threshold, const int64_t* alias, const int64_t* starts,
                  int64_t groups, int64_t trajectories);

}  // namespace ops
}  // namespace dom2
