// The loop, forward: which tile of rows, where weights and values are kept, how many launches.
#include "run.h"

#include <algorithm>

namespace dom2 {
namespace cuda {
namespace {

// Places the matrices that the steps use on the chip, as many bytes as `limit` leaves beside a tile
// of `rows` rows; false where they don't fit. At most one goes to registers: the largest that can.
bool place_on_chip(Code& code, Precision precision, int rows, int64_t limit, int& resident) {
  const auto bytes = [](const Matrix& m) { return int64_t{16} * m.tiles * m.packets * kWarp; };
  std::vector<bool> used(code.matrices, false);
  for (int i = code.once; i < code.instructions; ++i)
    if (static_cast<Op>(code.instruction[i].op) == Op::kLinear)
      used[code.instruction[i].matrix] = true;
  int held = -1;
  for (int i = 0; i < code.matrices && precision == Precision::kBf16; ++i) {
    const Matrix& m = code.matrix[i];
    const bool fits = m.tiles <= kHeldTiles && m.packets <= kHeldPackets;
    if (used[i] && fits && (held < 0 || bytes(m) > bytes(code.matrix[held]))) held = i;
  }
  int64_t left = limit - ring_bytes(precision, true) - 4 * tile_floats(code.ld, code.x_width, rows);
  resident = 0;
  for (int i = 0; i < code.matrices; ++i) {
    Matrix& m = code.matrix[i];
    m.place = !used[i] ? Place::kStreamed : i == held ? Place::kRegisters : Place::kShared;
    if (m.place != Place::kShared) continue;
    m.shared = resident;
    resident += m.tiles * m.packets * kWarp;
    left -= bytes(m);
  }
  return left >= 0;
}

// Cuts the batch into tiles. Few rows per tile while multiprocessors are idle, more to share each
// weight between rows once all are busy.
Shape shape_of(Forward& f, const Device& device, Precision precision) {
  const Data& d = f.data;
  const auto tiles = [&](int rows) { return ceil_div(d.batch, rows); };
  const int64_t passes = std::max(f.solver.count, 1);
  const int64_t per_group = std::max<int64_t>(device.multiprocessors / d.groups, 1);
  Shape s{precision, 8, true, 0, 0, 0};
  const int wanted = tiles(8) <= per_group ? 8 : 16;
  for (int rows = wanted; rows >= 8; rows /= 2) {
    // Loading weights pays off from the second pass over them on.
    if (passes * ceil_div(tiles(rows), per_group) < 2) break;
    if (!place_on_chip(f.code, precision, rows, device.shared_bytes, f.resident)) continue;
    s.rows = rows;
    s.blocks = std::min(tiles(rows), per_group);
    s.shared_bytes = 16 * int64_t{f.resident} + ring_bytes(precision, true) +
                     4 * tile_floats(f.code.ld, f.code.x_width, rows);
    f.tiles = static_cast<int>(tiles(rows));
    return s;
  }
  s.resident = false;
  f.resident = 0;
  for (int i = 0; i < f.code.matrices; ++i) f.code.matrix[i].place = Place::kStreamed;
  for (s.rows = 32; s.rows > 8; s.rows /= 2) {
    const bool fits =
        ring_bytes(precision, false) + 4 * tile_floats(f.code.ld, f.code.x_width, s.rows) <=
        device.shared_bytes;
    if (fits && tiles(s.rows / 2) * d.groups > device.multiprocessors) break;
  }
  const int64_t floats = tile_floats(f.code.ld, f.code.x_width, s.rows);
  s.shared_bytes = ring_bytes(precision, false) + 4 * floats;
  s.blocks = tiles(s.rows);
  if (s.shared_bytes > device.shared_bytes) {  // values beside, in memory that the caches hold
    s.blocks = std::min(s.blocks, 2 * per_group);
    s.shared_bytes = ring_bytes(precision, false);
    s.scratch_floats = s.blocks * d.groups * floats;
  }
  f.tiles = static_cast<int>(tiles(s.rows));
  return s;
}

}  // namespace

std::string denoise(const Context& context, const Code& code, Precision precision, const Data& data,
                    const double* solver, double out_low, double out_high) {
  if (data.batch == 0 || data.groups == 0) return {};
  if (data.groups > 65535) return "more than 65535 groups don't fit a launch";
  Forward f{};
  f.code = code;
  f.data = data;
  f.solver.out_low = out_low;
  f.solver.out_high = out_high;
  f.solver.total = solver ? static_cast<int>(data.steps) : 0;
  f.solver.count = std::min(f.solver.total, kMaxSolverRows);
  const Shape shape = shape_of(f, context.device, precision);
  if (shape.scratch_floats)
    f.scratch = static_cast<float*>(context.allocate(4 * shape.scratch_floats));
  if (f.solver.total > kMaxSolverRows)
    f.state = static_cast<double*>(context.allocate(24 * data.groups * data.batch * code.x_width));
  do {
    f.solver.count = std::min(f.solver.total - f.solver.first, kMaxSolverRows);
    for (int s = 0; s < f.solver.count; ++s)
      std::copy_n(solver + (f.solver.first + s) * kSolverColumns, kSolverColumns, f.solver.row[s]);
    const std::string why = failure("denoise", launch_denoise(f, shape, context.stream));
    if (!why.empty()) return why;
    f.solver.first += f.solver.count;
  } while (f.solver.first < f.solver.total);
  return {};
}

}  // namespace cuda
}  // namespace dom2
