#include "policy_file.h"

#include <cstring>
#include <fstream>
#include <type_traits>

#include "opcodes.h"
#include "safetensors.h"

namespace dom2 {
namespace {

constexpr const char* kFormat = "dom2_fast.policy";
// Columns of all buffers and instructions together. Far more than a network has, far less than
// would overflow an executor's count of them.
constexpr int64_t kMaxColumns = int64_t{1} << 22;
constexpr int64_t kMaxRows = int64_t{1} << 20;  // of the table: agents times steps

// What is left of a file to take.
struct Parts : Safetensors {
  bool halves = false;  // F16 may stand for F32
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    s += (i ? ", " : "") + (shape[i] < 0 ? std::string("any") : std::to_string(shape[i]));
  return s + "]";
}

const char* dtype_name(const float*) { return "F32"; }
const char* dtype_name(const double*) { return "F64"; }
const char* dtype_name(const int64_t*) { return "I64"; }

// The float of the same value, exactly: what IEEE 754's binary16 can hold, binary32 can.
float widened(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half >> 10 & 31u, fraction = half & 1023u;
  uint32_t bits;
  if (exponent == 0) {  // zero and what is below the least normal number: a multiple of 2^-24
    const float size = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &size, sizeof bits);
  } else {
    bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
  }
  bits |= sign;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

// Copies the tensor `name`, which must have `shape` (-1: any size); `found` is its own shape.
// Floats may stand as F16 where file.halves says so.
template <class T>
std::string take(Parts& file, const std::string& name, const std::vector<int64_t>& shape,
                 std::vector<T>& out, std::vector<int64_t>* found = nullptr) {
  const auto at = file.tensors.find(name);
  if (at == file.tensors.end()) return "it has no tensor '" + name + "'";
  const TensorView& v = at->second;
  const std::string dtype = dtype_name(static_cast<const T*>(nullptr));
  const bool half = std::is_same<T, float>::value && file.halves && v.dtype == "F16";
  bool fits = (half || v.dtype == dtype) && v.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == v.shape[i];
  if (!fits)
    return name + " is " + v.dtype + " " + shape_text(v.shape) + "; its program needs " + dtype +
           " " + shape_text(shape);
  out.resize(static_cast<size_t>(v.bytes) / (half ? sizeof(uint16_t) : sizeof(T)));
  if (half)
    for (size_t i = 0; i < out.size(); ++i) {
      uint16_t bits;
      std::memcpy(&bits, v.data + i * sizeof bits, sizeof bits);
      out[i] = static_cast<T>(widened(bits));
    }
  else if (v.bytes)
    std::memcpy(out.data(), v.data, static_cast<size_t>(v.bytes));
  if (found) *found = v.shape;
  file.tensors.erase(at);
  return {};
}

// Before version 3 a row had no ninth number, c_prev2: it is zero.
std::string take_solver(Parts& file, bool whole, int64_t steps, std::vector<double>& out) {
  const int64_t columns = whole ? kSolverColumns : kSolverColumns - 1;
  std::vector<double> rows;
  const std::string why = take(file, "solver", {steps, columns}, rows);
  if (!why.empty()) return why;
  out.assign(static_cast<size_t>(steps * kSolverColumns), 0.0);
  for (int64_t s = 0; s < steps; ++s)
    for (int64_t c = 0; c < columns; ++c) out[s * kSolverColumns + c] = rows[s * columns + c];
  return {};
}

std::string check_notes(const std::map<std::string, std::string>& notes) {
  const auto note = [&](const char* name) {
    const auto at = notes.find(name);
    return at == notes.end() ? std::string() : at->second;
  };
  if (note("format") != kFormat)
    return "its format is '" + note("format") + "', not '" + kFormat + "'";
  const std::string version = note("version");
  if (version.size() != 1 || version[0] < '1' || version[0] > '4')
    return "it has version '" + version + "' of the format, this program reads 1 to 4";
  if (note("stacked") != "true" && note("stacked") != "false")
    return "stacked is 'true' or 'false', not '" + note("stacked") + "'";
  return {};
}

std::string check_program(const Program& p) {
  if (p.buffers[1] < 1 || (p.buffers[0] && p.out.width != p.buffers[0]))
    return "its program makes " + std::to_string(p.out.width) + " columns of " +
           std::to_string(p.buffers[0]) + " and " + std::to_string(p.buffers[1]) +
           "; a noise network makes as many as an action has, an actor has no first ones";
  int64_t columns = 0;
  for (int width : p.buffers) columns += width;
  for (const Instr& i : p.instrs) columns += i.out.width;
  return columns > kMaxColumns ? "its program is too wide" : "";
}

}  // namespace

std::string PolicyFile::parse(const char* data, size_t size) {
  const uint16_t one = 1;
  if (*reinterpret_cast<const unsigned char*>(&one) != 1)
    return "it is little-endian; this machine isn't";
  *this = {};
  Parts file;
  std::string why = parse_safetensors(data, size, file);
  if (!why.empty() || !(why = check_notes(file.notes)).empty()) return why;
  notes = file.notes;
  const char version = notes["version"][0];
  file.halves = version >= '4';
  stacked = notes["stacked"] == "true";
  std::vector<int64_t> words, shape;
  std::vector<double> bounds;
  if (!(why = take(file, "program", {-1}, words)).empty()) return why;
  why = decode(words.data(), static_cast<int64_t>(words.size()), program);
  if (!why.empty()) return "its program is not valid: " + why;
  if (!(why = check_program(program)).empty()) return why;
  why = take(file, "table", {-1, -1, program.table_width}, table, &shape);
  if (!why.empty()) return why;
  const int64_t rows = shape[0];
  steps = program.buffers[0] ? rows : 0;
  groups = shape[1];
  if (rows < 1 || groups < 1 || (!stacked && groups != 1) || groups > kMaxRows / rows)
    return "it has " + std::to_string(rows) + " steps and " + std::to_string(groups) +
           " agents: too many or too few";
  if (!steps && rows != 1)
    return "its table is of " + std::to_string(rows) + " steps, but its program is of one pass";
  if (!(why = take_solver(file, version >= '3', steps, solver)).empty()) return why;
  if (!(why = take(file, "bounds", {2}, bounds)).empty()) return why;
  act_low = bounds[0];
  act_high = bounds[1];
  if (!(act_low < act_high)) return "its lower bound is not below the upper one";
  weights.resize(program.n.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    why = take(file, "weights." + std::to_string(i), {groups, program.n[i], program.k[i]},
               weights[i]);
    if (!why.empty()) return why;
  }
  if (!file.tensors.empty())
    return "it has a tensor that is no part of a policy: '" + file.tensors.begin()->first + "'";
  return {};
}

std::string PolicyFile::load(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) return path + " can't be opened";
  std::vector<char> bytes;
  // A folder opens as a file of a size that no file has.
  if (size < (std::streamoff{1} << 40)) bytes.resize(static_cast<size_t>(size));
  file.seekg(0);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())) ||
      static_cast<std::streamoff>(bytes.size()) != size)
    return path + " can't be read";
  const std::string why = parse(bytes.data(), bytes.size());
  if (why.empty()) return why;
  return path + " can't be read as an exported policy: " + why + "; copy it again, or export anew";
}

}  // namespace dom2
