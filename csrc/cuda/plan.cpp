// From a plan of csrc/core to what the kernels read.
#include <algorithm>

#include "run.h"

namespace dom2 {
namespace cuda {
namespace {

// Rows that lie 8 floats apart modulo 32 fill all banks of shared memory when eight rows are read
// at once, four pairs each (gemm.h).
int row_stride(int columns) { return static_cast<int>(ceil_div(columns - 8, 32)) * 32 + 8; }

}  // namespace

std::string make_code(const Program& program, const Plan& plan, Precision precision, bool backward,
                      Code& out) {
  const Exec& e = plan.exec;
  const Packing form = packing(precision);
  out = Code{};
  out.instructions = e.instrs_n;
  out.once = e.once_n;
  out.matrices = static_cast<int>(plan.weights.size());
  if (out.instructions > kMaxInstructions || out.matrices > kMaxMatrices)
    return "the program has " + std::to_string(out.instructions) + " instructions and " +
           std::to_string(out.matrices) + " weights; the CUDA executors take up to " +
           std::to_string(kMaxInstructions) + " and " + std::to_string(kMaxMatrices) +
           " (backend=\"reference\" runs it)";
  for (int i = 0; i < out.instructions; ++i) {
    const ExecInstr& s = plan.instrs[i];
    Instruction& to = out.instruction[i];
    to.op = static_cast<uint8_t>(s.op);
    to.act = static_cast<uint8_t>(s.act);
    to.set_a = static_cast<uint8_t>(s.set_a);
    to.set_b = static_cast<uint8_t>(s.set_b);
    to.set_c = static_cast<uint8_t>(s.set_c);
    to.matrix = static_cast<int16_t>(s.weight);
    to.site = static_cast<int16_t>(s.site);
    to.width = s.width;
    to.k = s.k;
    to.out = s.out;
    to.a = s.a;
    to.b = s.b;
    to.c = s.c;
    to.z = s.z;
    to.g_out = s.g_out;
    to.g_a = s.g_a;
    to.g_b = s.g_b;
    to.g_c = s.g_c;
    to.table = s.table_from;
    to.table2 = s.table2_from;
    to.value = s.value;
    to.drop_below = static_cast<uint64_t>(s.drop_below);
  }
  for (int i = 0; i < out.matrices; ++i) {
    const Weight& w = plan.weights[i];
    Matrix& m = out.matrix[i];
    m.n = w.n;
    m.k = w.k;
    m.tiles = static_cast<int>(ceil_div(w.n, form.features));
    m.packets = static_cast<int>(ceil_div(w.k, form.depth));
    m.first = out.packets;
    out.packets += packets(w.n, w.k, precision);
    m.tiles_t = static_cast<int>(ceil_div(w.k, form.features));
    m.packets_t = static_cast<int>(ceil_div(w.n, form.depth));
    m.first_t = out.packets_t;
    out.packets_t += packets(w.k, w.n, precision);
    m.grad = out.grad_floats;
    out.grad_floats += int64_t{w.n} * w.k;
  }
  out.ld = row_stride(e.columns);
  out.g_ld = row_stride(e.g_width);
  out.x = e.x;
  out.cond = e.cond;
  out.out = e.out;
  out.g_x = e.g_x;
  out.g_cond = e.g_cond;
  out.g_out = e.g_out;
  out.x_width = e.x_width;
  out.cond_width = e.cond_width;
  out.out_width = e.out_width;
  out.table_width = program.table_width;
  out.sites = e.sites;
  if (!backward) return {};
  out.once_columns = e.once_columns;
  out.g_once_columns = e.g_once_end;
  out.zeros = e.zero_n / 2;
  if (out.zeros > kMaxZeros)
    return "more than " + std::to_string(kMaxZeros) +
           " of the program's values are read in part or not at all; the CUDA executors can't take "
           "so many (backend=\"reference\" runs it)";
  std::copy_n(e.zero, e.zero_n, out.zero);
  return {};
}

std::string pack_weights(const Context& context, const Code& code, Precision precision,
                         const Source* weights, int64_t groups, bool transposed, void* out) {
  Pack p{};
  p.matrices = code.matrices;
  p.precision = precision;
  p.out = out;
  for (int i = 0; i < code.matrices; ++i) {
    const Matrix& m = code.matrix[i];
    p.source[i] = weights[i];
    p.n[i] = transposed ? m.k : m.n;
    p.k[i] = transposed ? m.n : m.k;
    if (transposed) std::swap(p.source[i].row, p.source[i].col);
    p.first[i] = transposed ? m.first_t : m.first;
  }
  p.first[code.matrices] = transposed ? code.packets_t : code.packets;
  if (p.first[code.matrices] == 0) return {};
  return failure("pack_weights", launch_pack_weights(p, groups, context.stream));
}

}  // namespace cuda
}  // namespace dom2
