// What test_frozen_cpp.py needs of the C++ policy beside examples/act.cpp.
//
//   policy_check sample FILE ROWS IN OUT    floats in IN: obs, x_T, noise; in OUT: act
//   policy_check fuzz FILE                  damages FILE in memory in many ways and uses it
//   policy_check allocations FILE ROWS      how often 10 calls of sample take memory, after a first
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#include "cpu/policy.h"

namespace {
int allocations = 0;
}

// Every way of the library to the heap but Arena's, which is seen by its growing once.
void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

using dom2::cpu::Policy;

std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int sample(const Policy& p, int64_t rows, const char* in, const char* out) {
  const std::vector<char> bytes = read(in);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  const int64_t wide = p.agents() * rows;
  dom2::cpu::Draws draws;
  draws.x_T = values.data() + wide * p.obs_dim();
  draws.noise = draws.x_T + wide * p.act_dim();
  if (static_cast<int64_t>(values.size()) != wide * (p.obs_dim() + p.act_dim() * (1 + p.steps())))
    return 3;
  std::vector<float> act(wide * p.act_dim());
  // Two threads' worth of work, one after the other: the split must not show in the result.
  const dom2::cpu::Threads threads{2, [](int64_t n, const std::function<void(int64_t)>& body) {
                                     for (int64_t i = 0; i < n; ++i) body(i);
                                   }};
  p.sample(values.data(), rows, draws, act.data(), threads);
  std::ofstream(out, std::ios::binary)
      .write(reinterpret_cast<const char*>(act.data()),
             static_cast<std::streamsize>(act.size() * sizeof(float)));
  return 0;
}

int count(const Policy& p, int64_t rows) {
  std::vector<float> obs(p.agents() * rows * p.obs_dim(), 0.5f);
  std::vector<float> act(p.agents() * rows * p.act_dim());
  const dom2::cpu::Threads two{2, [](int64_t n, const std::function<void(int64_t)>& body) {
                                 for (int64_t i = 0; i < n; ++i) body(i);
                               }};
  int before = 0;
  for (uint32_t call = 0; call < 11; ++call) {
    if (call == 1) before = allocations;
    p.sample(obs.data(), rows, {1, call, nullptr, nullptr}, act.data());
    p.sample(obs.data(), rows, {2, call, nullptr, nullptr}, act.data(), two);
  }
  std::printf("%d\n", allocations - before);
  return 0;
}

int used = 0, refused = 0;

void use(const std::vector<char>& bytes) {
  const std::vector<char> exact(bytes.begin(), bytes.end());  // so that a read beyond is noticed
  std::string why;
  const auto p = Policy::parse(exact.data(), exact.size(), why);
  if (static_cast<bool>(p) != why.empty()) std::printf("neither a policy nor a reason\n");
  if (!p) {
    ++refused;
    return;
  }
  ++used;
  std::vector<float> obs(p->agents() * p->obs_dim(), 0.5f), act(p->agents() * p->act_dim());
  p->sample(obs.data(), 1, {1, 2, nullptr, nullptr}, act.data());
}

int fuzz(const std::vector<char>& whole) {
  uint64_t state = 1;
  const auto next = [&](uint64_t below) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (state >> 33) % below;
  };
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  const uint64_t front = header + 8;
  for (uint64_t size = 0; size < whole.size(); size += size < front + 64 ? 1 : 97)
    use({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
  for (uint64_t i = 0; i < front; ++i)  // every byte of the header, in three ways
    for (int change = 0; change < 3; ++change) {
      std::vector<char> bytes = whole;
      bytes[i] = change == 0 ? static_cast<char>(bytes[i] ^ (1 << next(8)))
                             : static_cast<char>(change == 1 ? '0' + next(10) : next(256));
      use(bytes);
    }
  for (int i = 0; i < 3000; ++i) {  // the data, its first kilobyte (the program) above all
    std::vector<char> bytes = whole;
    const uint64_t data = whole.size() - front;
    for (uint64_t n = 1 + next(3); n > 0; --n)
      bytes[front + next(i % 4 ? std::min<uint64_t>(data, 1024) : data)] ^=
          static_cast<char>(1 << next(8));
    use(bytes);
  }
  std::printf("%d refused, %d used\n", refused, used);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && !std::strcmp(argv[1], "fuzz")) return fuzz(read(argv[2]));
  const bool counts = argc == 4 && !std::strcmp(argv[1], "allocations");
  if (!counts && (argc != 6 || std::strcmp(argv[1], "sample"))) return 2;
  std::string why;
  const auto policy = Policy::load(argv[2], why);
  if (!policy) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 2;
  }
  if (counts) return count(*policy, std::stoll(argv[3]));
  return sample(*policy, std::stoll(argv[3]), argv[4], argv[5]);
}
