// What driver.cpp reads: a case as python_tests/simt/kernel_cases.py writes it; how its results are
// compared; and the memory that stands for the card's. python_tests/cpp/kernel_check.cpp has the
// CPU's kernels checked in the same way.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <list>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace driver {

using std::string;

[[noreturn]] inline void fail(const string& why) { throw std::runtime_error(why); }

// Named arrays: a file is a row of (length of the name, name, type, number of elements, bytes).
struct Array {
  char type = 0;  // 'f' float, 'd' double, 'q' int64, 'c' char
  int64_t count = 0;
  std::vector<unsigned char> bytes;

  static int64_t size_of(char type) { return type == 'c' ? 1 : type == 'f' ? 4 : 8; }
  template <class T>
  T at(int64_t i) const {
    if (sizeof(T) != static_cast<size_t>(size_of(type)) || i >= count) fail("a number is missing");
    T value;
    std::memcpy(&value, bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    return value;
  }
  double number(int64_t i) const {
    if (type == 'f') return at<float>(i);
    if (type == 'd') return at<double>(i);
    return static_cast<double>(at<int64_t>(i));
  }
};

struct Case {
  std::map<string, Array> arrays;

  bool has(const string& name) const { return arrays.count(name) > 0; }
  const Array& operator[](const string& name) const {
    const auto found = arrays.find(name);
    if (found == arrays.end()) fail("the case has no '" + name + "'");
    return found->second;
  }
  int64_t number(const string& name) const { return (*this)[name].at<int64_t>(0); }
  string text(const string& name) const {
    const Array& a = (*this)[name];
    return {reinterpret_cast<const char*>(a.bytes.data()), a.bytes.size()};
  }
};

inline Case read_case(const string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("can't read " + path);
  Case result;
  int64_t length = 0;
  const auto take = [&](void* to, int64_t bytes) {
    file.read(static_cast<char*>(to), bytes);
    if (file.gcount() != bytes) fail(path + " is cut short");
  };
  while (file.read(reinterpret_cast<char*>(&length), sizeof length)) {
    string name(static_cast<size_t>(length), ' ');
    take(name.data(), length);
    Array& a = result.arrays[name];
    take(&a.type, 1);
    take(&a.count, sizeof a.count);
    a.bytes.resize(static_cast<size_t>(a.count * Array::size_of(a.type)));
    take(a.bytes.data(), static_cast<int64_t>(a.bytes.size()));
  }
  return result;
}

struct Output {
  string name;
  char type;  // as in Array
  const void* data;
  int64_t count;
};

// The relative error, as python_tests/tolerances.py defines it, must be within `tolerance.NAME`;
// where the case has `limit.NAME`, each number's error within its own, if that is finite.
inline void compare(const Output& out, const Case& c) {
  const Array& expected = c["expected." + out.name];
  const Array* limit = c.has("limit." + out.name) ? &c["limit." + out.name] : nullptr;
  if (expected.count != out.count || (limit && limit->count != out.count))
    fail(out.name + " has " + std::to_string(out.count) + " elements, expected are " +
         std::to_string(expected.count));
  double difference = 0, size = 0;
  char text[128];
  for (int64_t i = 0; i < out.count; ++i) {
    const double e = expected.number(i);
    const double v = out.type == 'f'
                         ? double{static_cast<const float*>(out.data)[i]}
                         : static_cast<double>(static_cast<const int64_t*>(out.data)[i]);
    if (limit) {
      if (std::isinf(limit->number(i)) || std::abs(v - e) <= limit->number(i)) continue;
      std::snprintf(text, sizeof text, "[%lld] is %.9g, expected %.9g, limit %.3g",
                    static_cast<long long>(i), v, e, limit->number(i));
      fail(out.name + text);
    }
    if (std::isnan(v)) fail(out.name + "[" + std::to_string(i) + "] is NaN");
    difference += (v - e) * (v - e);
    size += e * e;
  }
  if (limit) return;
  const double tolerance = c["tolerance." + out.name].at<double>(0);
  const double error = std::sqrt(size > 0 ? difference / size : difference);
  if (!(error <= tolerance)) {
    std::snprintf(text, sizeof text, ": error %.3g, limit %.3g", error, tolerance);
    fail(out.name + text);
  }
}

// Each array in an allocation of exactly its size, for ASan to see what lies beyond. Elsewhere it
// lies between guards. What nobody has written is NaN, in float and in double, and different from
// word to word, so that a copy of it into a guard shows. `quiet` NaNs survive arithmetic as they
// are, the others don't (and as double are no NaN): who runs a case both ways misses neither.
class DeviceMemory {
 public:
  explicit DeviceMemory(bool quiet) : quiet_(quiet) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    for (const Block& b : blocks_) std::free(b.base);
  }

  void* allocate(int64_t bytes) { return add(bytes, nullptr); }

  // Memory that kernels may only read.
  void* upload(const void* from, int64_t bytes) { return add(bytes, from); }
  template <class T>
  const T* upload(const Array& a) {
    if (Array::size_of(a.type) != sizeof(T)) fail("an array has another type");
    return static_cast<const T*>(upload(a.bytes.data(), static_cast<int64_t>(a.bytes.size())));
  }

  // What was written though it must not be, or an empty string.
  string check() const {
    for (const Block& b : blocks_) {
      const unsigned char* end = b.base + kGuard + b.bytes;
      for (size_t i = 0; i < kGuard; ++i) {
        if (b.base[i] != filler(i)) return describe(b, "before an array of ", kGuard - i);
        if (end[i] != filler(kGuard + b.bytes + i)) return describe(b, "behind an array of ", i);
      }
      if (!b.constant.empty() && std::memcmp(b.base + kGuard, b.constant.data(), b.bytes) != 0)
        return describe(b, "in a constant array of ", 0);
    }
    return {};
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kGuard = 0;
#else
  static constexpr size_t kGuard = 16384;
#endif
  struct Block {
    unsigned char* base;
    size_t bytes;
    std::vector<unsigned char> constant;
  };

  static string describe(const Block& b, const char* where, size_t at) {
    return "memory was written " + (where + std::to_string(b.bytes)) + " bytes, at " +
           std::to_string(at);
  }

  unsigned char filler(size_t byte) const {
    const uint32_t n = static_cast<uint32_t>(byte / 4) * 2654435761u >> 16;
    const uint32_t word = (quiet_ ? 0x7ff00000u : 0x7fa00000u) | (n & 0xffffu) | 1u;
    return static_cast<unsigned char>(word >> byte % 4 * 8);
  }

  void* add(int64_t bytes, const void* from) {
    Block b{nullptr, static_cast<size_t>(bytes), {}};
    const size_t all = b.bytes + 2 * kGuard;
    b.base = static_cast<unsigned char*>(std::malloc(all));
    if (!b.base) fail("no memory");
    for (size_t i = 0; i < all; ++i) b.base[i] = filler(i);
    if (from && bytes) {
      std::memcpy(b.base + kGuard, from, b.bytes);
      b.constant.assign(b.base + kGuard, b.base + kGuard + b.bytes);
    }
    blocks_.push_back(b);
    return b.base + kGuard;
  }

  bool quiet_;
  std::list<Block> blocks_;
};

}  // namespace driver
