#include "run.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

namespace dom2 {
namespace cpu {
namespace {

// Scratch of one tile: about what a second-level cache holds beside a layer's weights. Where the
// weights don't fit, they and their gradients come from further away, and are shared by more rows.
constexpr int64_t kScratchFloats = 160 * 1024;
constexpr int kRows = 96, kFewRows = 24, kWideRows = 132;
// A tile keeps the values of all steps for backward up to here, 32 MiB; beyond it recomputes them.
constexpr int64_t kKeptFloats = 8 << 20;
// Below this many floating-point operations waking another thread costs more than it gains.
constexpr double kSerialFlops = 1e6;

struct Tiles {
  int64_t per_group, rows;  // tiles of each group, rows of all but the last
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// unit: tiles should be multiples of this many rows, as far as that leaves them in cache.
Tiles split(const Exec& e, int64_t groups, int64_t batch, int64_t row_floats, int row_block,
            int64_t unit, int threads) {
  const int64_t fit = e.packed_size > kScratchFloats
                          ? kWideRows
                          : std::clamp<int64_t>(kScratchFloats / row_floats, kFewRows, kRows);
  const int64_t both = std::lcm<int64_t>(row_block, unit);
  const int64_t block = both <= kRows ? both : unit > 1 ? unit : row_block;
  const int64_t most = std::max<int64_t>(fit / block * block, block);
  int64_t n = ceil_div(batch, most);
  // As many tiles as the threads can share evenly, unless tiles would get too small for that.
  for (int64_t m = n; m < 2 * n + threads && batch / m >= 2 * block; ++m)
    if (groups * m % threads == 0) {
      n = m;
      break;
    }
  int64_t rows = ceil_div(batch, n);
  rows = ceil_div(rows, rows > block ? block : unit) * (rows > block ? block : unit);
  return {ceil_div(batch, rows), rows};
}

// Whole groups of rows that share a condition vector, so that no vector is in two tiles; but not
// where a tile would have to grow for that.
int64_t tile_unit(const Call& c) { return c.repeat <= kRows ? c.repeat : 1; }

double flops(const Exec& e, const Call& c) {
  double per_row = 0;
  for (int i = 0; i < e.instrs_n; ++i) per_row += 2.0 * e.instrs[i].width * e.instrs[i].k;
  return per_row * c.steps * c.batch * c.groups;
}

// Calls body(part, tile) for every tile; a part is what one thread does, a contiguous range of
// tiles. Takes no memory: a std::function of a reference fits into itself.
template <class Body>
void for_tiles(int64_t tiles, int parts, const Threads& threads, const Body& body) {
  const auto part = [&](int64_t p) {
    for (int64_t t = tiles * p / parts; t < tiles * (p + 1) / parts; ++t)
      body(static_cast<int>(p), t);
  };
  if (parts == 1)
    part(0);
  else
    threads.run(parts, std::cref(part));
}

Arena& scratch() {
  thread_local Arena arena;
  return arena;
}

}  // namespace

void Arena::Free::operator()(float* p) const { std::free(p); }

float* Arena::floats(int64_t n) {
  if (n > size_) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(float) + 63) / 64 * 64;
    data_.reset();
    size_ = 0;
    data_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    size_ = n;
  }
  return data_.get();
}

void denoise(const Kernels& kernels, const Call& call, const Threads& threads) {
  if (call.batch == 0 || call.groups == 0) return;
  const Exec& e = *call.exec;
  const int wanted = flops(e, call) < kSerialFlops ? 1 : threads.count;
  const Tiles tiles =
      split(e, call.groups, call.batch, e.bf16, kernels.row_block, tile_unit(call), wanted);
  const int64_t n = call.groups * tiles.per_group;
  const int64_t floats = tiles.rows * (e.width + 6 * e.x_width);
  for_tiles(n, static_cast<int>(std::min<int64_t>(wanted, n)), threads, [&](int, int64_t i) {
    const int64_t row = i % tiles.per_group * tiles.rows;
    const int count = static_cast<int>(std::min(tiles.rows, call.batch - row));
    kernels.forward(call, i / tiles.per_group, row, count, scratch().floats(floats));
  });
}

namespace {

// One tile of the backward executors: which rows, the sums of its part, and its own.
using TileBody = std::function<void(const Partial&, int64_t group, int64_t row, int count,
                                    float* scratch, double* sums)>;

struct Collect {
  int64_t unit;        // rows of a tile are a multiple of this
  int64_t row_floats;  // scratch of one row
  int sums = 0;        // numbers that a tile adds up, besides gradients
};

// Runs `body` over all tiles and adds what its parts have collected into `out`, in order. Returns
// the sums of each group, [G, how.sums].
std::vector<double> collect(const Kernels& kernels, const Plan& plan, const Call& call,
                            const Gradients& out, const Threads& threads, const Collect& how,
                            const TileBody& body) {
  const Exec& e = plan.exec;
  const bool weights = out.weights != nullptr, table = out.table != nullptr;
  const int64_t groups = call.groups, table_size = call.steps * groups * e.table_ld;
  const int64_t weights_size = groups * e.grad_size;
  const int wanted = 3 * flops(e, call) < kSerialFlops ? 1 : threads.count;
  const Tiles tiles =
      call.batch ? split(e, groups, call.batch, how.row_floats, kernels.row_block, how.unit, wanted)
                 : Tiles{0, 1};
  const int64_t n = groups * tiles.per_group;
  const int parts = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(wanted, n)));
  const int64_t part_size = (weights ? weights_size : 0) + (table ? table_size : 0);
  thread_local Arena arena;
  float* partials = part_size ? arena.floats(parts * part_size) : nullptr;
  const auto partial = [&](int part) {
    float* p = partials + part * part_size;
    return Partial{weights ? p : nullptr, table ? p + (weights ? weights_size : 0) : nullptr};
  };
  std::vector<char> cleared(parts, 0);
  std::vector<double> sums(n * how.sums), totals(groups * how.sums);
  const int64_t floats = tiles.rows * how.row_floats;
  for_tiles(n, parts, threads, [&](int part, int64_t i) {
    if (!cleared[part] && part_size) {
      std::memset(partials + part * part_size, 0, part_size * sizeof(float));
      cleared[part] = 1;
    }
    const int64_t row = i % tiles.per_group * tiles.rows;
    const int count = static_cast<int>(std::min(tiles.rows, call.batch - row));
    body(partial(part), i / tiles.per_group, row, count, scratch().floats(floats),
         sums.data() + i * how.sums);
  });
  for (int64_t i = 0; i < n; ++i)
    for (int s = 0; s < how.sums; ++s)
      totals[i / tiles.per_group * how.sums + s] += sums[i * how.sums + s];
  if (!part_size) return totals;
  if (n == 0) std::memset(partials, 0, part_size * sizeof(float));
  if (table) {
    for (int p = 0; p < parts; ++p)
      unpad_table(plan, partial(p).table, out.table_width, call.steps * groups, out.table);
  }
  if (!weights) return totals;
  const auto reduce = [&](int64_t i) {
    const Weight& w = plan.weights[i / groups];
    const int64_t group = i % groups;
    int64_t before = 0;
    for (int64_t j = 0; j < i / groups; ++j)
      before += groups * plan.weights[j].n * plan.weights[j].k;
    float* to = out.weights + before + group * w.n * w.k;
    for (int row = 0; row < w.n; ++row, to += w.k)
      for (int p = 0; p < parts; ++p) {
        const float* from =
            partials + p * part_size + group * e.grad_size + w.grad + int64_t{row} * w.k_pad;
        if (p == 0)
          std::copy_n(from, w.k, to);
        else
          for (int j = 0; j < w.k; ++j) to[j] += from[j];
      }
  };
  const int64_t blocks = static_cast<int64_t>(plan.weights.size()) * groups;
  for_tiles(blocks, weights_size < 16384 ? 1 : parts, threads, [&](int, int64_t i) { reduce(i); });
  return totals;
}

int64_t backward_floats(const Exec& e) { return e.width + e.g_width + 8 * e.x_width; }

}  // namespace

void denoise_backward(const Kernels& kernels, const Plan& plan, const Call& call,
                      const BackwardCall& b, const Gradients& out, const Threads& threads) {
  collect(kernels, plan, call, out, threads, {tile_unit(call), backward_floats(plan.exec)},
          [&](const Partial& p, int64_t group, int64_t row, int count, float* scratch, double*) {
            kernels.backward(call, b, p, group, row, count, scratch);
          });
}

void denoising_loss(const Kernels& kernels, const Plan& plan, const Call& call,
                    const BackwardCall& b, const float* target, const Gradients& out,
                    const Threads& threads, float* loss) {
  const std::vector<double> sums = collect(
      kernels, plan, call, out, threads, {tile_unit(call), backward_floats(plan.exec), 1},
      [&](const Partial& p, int64_t group, int64_t row, int count, float* scratch, double* sum) {
        kernels.denoising_loss(call, b, p, target, group, row, count, scratch, sum);
      });
  for (int64_t g = 0; g < call.groups; ++g)
    loss[g] = static_cast<float>(sums[g] / (static_cast<double>(call.batch) * plan.exec.out_width));
}

void conservative_loss(const Kernels& kernels, const Plan& plan, const Call& call,
                       const BackwardCall& b, const ConservativeCall& l, const Gradients& out,
                       const Threads& threads, float* loss, float* parts) {
  // A tile holds all rows of an observation, however many: the loss compares them.
  const std::vector<double> sums = collect(
      kernels, plan, call, out, threads, {call.repeat, backward_floats(plan.exec), 2},
      [&](const Partial& p, int64_t group, int64_t row, int count, float* scratch, double* sum) {
        kernels.conservative_loss(call, b, p, l, group, row, count, scratch, sum);
      });
  const double batch = static_cast<double>(call.batch / call.repeat);
  for (int64_t g = 0; g < call.groups; ++g) {
    const double td = sums[2 * g] / batch, cql = sums[2 * g + 1] / batch;
    loss[g] = static_cast<float>(td + l.weight * cql);
    parts[g] = static_cast<float>(td);
    parts[call.groups + g] = static_cast<float>(cql);
  }
}

void chain_value(const Kernels& kernels, const Plan& plan, const Call& call, const BackwardCall& b,
                 ChainCall l, const Gradients& out, const Threads& threads, float* mean) {
  l.keep = b.packed_t && call.steps * plan.exec.width * kWideRows <= kKeptFloats;
  const std::vector<double> sums = collect(
      kernels, plan, call, out, threads, {tile_unit(call), chain_floats(call, l), 1},
      [&](const Partial& p, int64_t group, int64_t row, int count, float* scratch, double* sum) {
        kernels.chain_value(call, b, p, l, group, row, count, scratch, sum);
      });
  for (int64_t g = 0; g < call.groups; ++g)
    mean[g] = static_cast<float>(sums[g] / static_cast<double>(call.batch));
}

void sample_transitions(const Kernels& kernels, const SampleCall& call, const Threads& threads) {
  constexpr int64_t kRows = 256, kSerialFloats = 1 << 17;
  const int64_t parts = ceil_div(call.batch, kRows);
  const auto part = [&](int64_t i) {
    const int64_t row = i % parts * kRows;
    kernels.sample(call, i / parts, row, std::min(kRows, call.batch - row));
  };
  int64_t floats = 0;
  for (int64_t i = 0; i < call.fields * call.groups; ++i)
    floats += call.batch * call.field[i].width;
  if (floats < kSerialFloats || threads.count == 1)
    for (int64_t i = 0; i < call.groups * parts; ++i) part(i);
  else
    threads.run(call.groups * parts, part);
}

}  // namespace cpu
}  // namespace dom2
