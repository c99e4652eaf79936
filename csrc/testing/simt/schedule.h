// Running a grid: memory for its blocks, which thread goes next, what is checked at the end.
// Everything here runs on the main stack.
#pragma once
#include <algorithm>
#include <atomic>
#include <numeric>
#include <tuple>
#include <vector>

#include "machine.h"

namespace simt::detail {

// One mapping holds all that a block's threads touch: guards and shared memory, what they meet at,
// pending copies, stacks. Under TSan it is mapped afresh for each block: that makes TSan forget the
// block before, which has no order with this one but used the same addresses.
class Arena {
 public:
  ~Arena() { release_all(); }

  void prepare(int threads, size_t shared_bytes) {
    const size_t rounded = (shared_bytes + 15) / 16 * 16;
    const size_t shared = 2 * kGuardBytes + rounded;
    const size_t state = sizeof(Warp) * kMaxWarps + sizeof(Barrier) + 64;
    const size_t copies = sizeof(Copy) * kMaxCopies * static_cast<size_t>(threads);
    const size_t before_stacks = up(shared) + up(state) + up(copies);
    const size_t bytes = before_stacks + kStackBytes * static_cast<size_t>(threads);
#ifdef SIMT_TSAN
    release_all();
#endif
    if (!base_ || threads != threads_ || shared_bytes != shared_bytes_) map(bytes);
    threads_ = threads;
    shared_bytes_ = shared_bytes;
    Machine& m = machine;
    m.shared = base_ + kGuardBytes;
    m.shared_bytes = shared_bytes;
    char* at = reinterpret_cast<char*>(base_) + up(shared);
    m.warp = reinterpret_cast<Warp*>(at);
    m.barrier = reinterpret_cast<Barrier*>(at + sizeof(Warp) * kMaxWarps);
    at += up(state);
    for (int i = 0; i < threads; ++i)
      m.fibers[i].copies = reinterpret_cast<Copy*>(at) + static_cast<size_t>(i) * kMaxCopies;
    stacks_ = reinterpret_cast<char*>(base_) + before_stacks;
    guard_bytes_ = 2 * kGuardBytes + rounded - shared_bytes;
    if (!protected_) protect();
  }

  // NaN bytes everywhere: in the shared memory, so that reading what nobody wrote shows, and in the
  // guards, which must still be so at the end.
  void fill() {
    unpoison(base_, guard_bytes_ + shared_bytes_);
    std::memset(base_, 0xFF, guard_bytes_ + shared_bytes_);
    poison(base_, kGuardBytes);
    poison(machine.shared + shared_bytes_, guard_bytes_ - kGuardBytes);
  }

  SIMT_INTERNAL void check_guards() {
    unpoison(base_, guard_bytes_ + shared_bytes_);
    const unsigned char* shared = machine.shared;
    for (size_t i = 0; i < guard_bytes_ + shared_bytes_; ++i) {
      if (i == kGuardBytes) i += shared_bytes_;
      if (i < guard_bytes_ + shared_bytes_ && base_[i] != 0xFF)
        die({nullptr, 0}, "shared memory was written at byte %td; the block has %zu bytes of it",
            base_ + i - shared, shared_bytes_);
    }
  }

  char* stack(int thread) const { return stacks_ + kStackBytes * static_cast<size_t>(thread); }
  static constexpr size_t kStackBytes = 256 * 1024;
  static constexpr size_t kPage = 4096;

 private:
  static size_t up(size_t n) { return (n + kPage - 1) / kPage * kPage; }

  void map(size_t bytes) {
    release_all();
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::runtime_error("simt: no memory for the stacks of a block");
    base_ = static_cast<unsigned char*>(at);
    size_ = bytes;
    protected_ = false;
  }

  // A stack that grows too far ends the program instead of changing its neighbour. (TSan maps every
  // block anew; there it would take longer than the block.)
  void protect() {
#ifndef SIMT_TSAN
    for (int i = 0; i < threads_; ++i) mprotect(stack(i), kPage, PROT_NONE);
#endif
    protected_ = true;
  }

  void release_all() {
    if (!base_) return;
    unpoison(base_, size_);
    munmap(base_, size_);
    base_ = nullptr;
    size_ = 0;
  }

  unsigned char* base_ = nullptr;
  char* stacks_ = nullptr;
  size_t size_ = 0, shared_bytes_ = 0, guard_bytes_ = 0;
  int threads_ = 0;
  bool protected_ = false;
};

inline Arena& arena() {
  static Arena one;
  return one;
}

// TSan's fibers: no two blocks of a launch share one, or their accesses would seem to be in order.
// They are kept from launch to launch, which are in order, because making one takes a millisecond.
// Where a launch has more threads than are kept, the oldest are replaced; TSan then may take a
// thread for one that has ended.
class TsanFibers {
 public:
  ~TsanFibers() { forget(); }
  void begin_launch() { used_ = 0; }
  SIMT_INTERNAL void assign([[maybe_unused]] Context& context, [[maybe_unused]] uint3 thread) {
#ifdef SIMT_TSAN
    void*& fiber = all_[used_ % kKept];
    if (fiber && used_ >= kKept) {
      __tsan_destroy_fiber(fiber);
      fiber = nullptr;
    }
    if (!fiber) fiber = __tsan_create_fiber(0);
    context.tsan = fiber;
    ++used_;
    char name[96];
    std::snprintf(name, sizeof name, "block (%u,%u,%u) thread (%u,%u,%u)", blockIdx.x, blockIdx.y,
                  blockIdx.z, thread.x, thread.y, thread.z);
    __tsan_set_fiber_name(fiber, name);
#endif
  }
  // Also after a launch that failed, when some have stopped in the middle.
  void forget() {
#ifdef SIMT_TSAN
    for (void*& fiber : all_) {
      if (fiber) __tsan_destroy_fiber(fiber);
      fiber = nullptr;
    }
#endif
  }

 private:
  static constexpr size_t kKept = 2048;  // of about a megabyte; at least two blocks
  size_t used_ = 0;
#ifdef SIMT_TSAN
  void* all_[kKept] = {};
#endif
};

inline TsanFibers& tsan_fibers() {
  static TsanFibers one;
  return one;
}

SIMT_INTERNAL inline void begin_block(uint3 index, dim3 block) {
  Machine& m = machine;
  blockIdx = index;
  arena().prepare(m.threads, m.shared_bytes);
  arena().fill();
  *m.barrier = Barrier{};
  m.live = m.threads;
  for (int w = 0; w < m.warps; ++w) {
    const int lanes = std::min(32, m.threads - 32 * w);
    m.warp[w].meetings = 0;
    m.warp[w].live = m.warp[w].ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
  }
  unpoison(arena().stack(0), Arena::kStackBytes * static_cast<size_t>(m.threads));
  for (int i = 0; i < m.threads; ++i) {
    Fiber& f = m.fibers[i];
    const unsigned n = static_cast<unsigned>(i);
    f.index = {n % block.x, n / block.x % block.y, n / (block.x * block.y)};
    f.op = Op::none;
    f.pending = f.groups = 0;
    f.fenced = false;
    // Tops at one distance would all fall into the same few lines of the cache.
    const size_t skew = n % 61 * 192;
    prepare(f.context, arena().stack(i), Arena::kStackBytes - skew, fiber_entry);
    tsan_fibers().assign(f.context, f.index);
  }
  release(&m.barrier->start_key);
}

SIMT_INTERNAL inline void switch_thread(int thread) {
  machine.current = thread;
  threadIdx = machine.fibers[thread].index;
  switch_to(machine.main, machine.fibers[thread].context);
  machine.current = -1;
}

// The thread that runs next, or -1 where none can. `last` ran before.
class Picker {
 public:
  SIMT_INTERNAL int next(int last) const {
    switch (machine.schedule) {
      case Schedule::forward:
        return after(last);
      case Schedule::reverse:
        return before(last);
      case Schedule::random: {
        // Mostly on in the same warp, so that warps get far apart.
        const bool stay = last >= 0 && machine.warp[last / 32].ready && machine.random.below(16);
        return any(stay ? last / 32 : random_warp());
      }
      case Schedule::greedy:
        break;
    }
    if (last < 0) return any(random_warp());
    if (machine.warp[last / 32].ready >> (last % 32) & 1) return last;
    return any(machine.warp[last / 32].ready ? last / 32 : random_warp());
  }

 private:
  SIMT_INTERNAL static int after(int last) {
    const int first = (last + 1) / 32 % machine.warps, lane = (last + 1) % 32;
    if (const unsigned later = machine.warp[first].ready >> lane << lane)
      return first * 32 + __builtin_ctz(later);
    for (int i = 1; i <= machine.warps; ++i) {
      const int w = (first + i) % machine.warps;
      if (machine.warp[w].ready) return w * 32 + __builtin_ctz(machine.warp[w].ready);
    }
    return -1;
  }
  SIMT_INTERNAL static int before(int last) {
    if (last <= 0) last = machine.threads;
    const int first = (last - 1) / 32, lane = (last - 1) % 32;
    if (const unsigned earlier = machine.warp[first].ready & (~0u >> (31 - lane)))
      return first * 32 + 31 - __builtin_clz(earlier);
    for (int i = 1; i <= machine.warps; ++i) {
      const int w = (first + machine.warps - i) % machine.warps;
      if (machine.warp[w].ready) return w * 32 + 31 - __builtin_clz(machine.warp[w].ready);
    }
    return -1;
  }
  SIMT_INTERNAL static int random_warp() {
    const int start = static_cast<int>(machine.random.below(static_cast<unsigned>(machine.warps)));
    for (int i = 0; i < machine.warps; ++i)
      if (machine.warp[(start + i) % machine.warps].ready) return (start + i) % machine.warps;
    return -1;
  }
  SIMT_INTERNAL static int any(int warp) {
    if (warp < 0) return -1;
    unsigned ready = machine.warp[warp].ready;
    const unsigned skip = machine.random.below(static_cast<unsigned>(__builtin_popcount(ready)));
    for (unsigned i = 0; i < skip; ++i) ready &= ready - 1;
    return warp * 32 + __builtin_ctz(ready);
  }
};

// Nobody can run, and somebody hasn't exited: says who waits where.
[[noreturn]] inline void report_deadlock() {
  std::string text = "deadlock: ";
  int groups = 0;
  for (int i = 0; i < machine.threads; ++i) {
    const Fiber& f = machine.fibers[i];
    if (!(machine.warp[i / 32].live >> (i % 32) & 1)) continue;
    int last = i;
    const auto alike = [&](const Fiber& g) {
      return g.op == f.op && g.mask == f.mask && g.site.line == f.site.line;
    };
    while (last + 1 < machine.threads && alike(machine.fibers[last + 1]) &&
           (machine.warp[(last + 1) / 32].live >> ((last + 1) % 32) & 1))
      ++last;
    if (++groups > 6) {
      text += "; ...";
      break;
    }
    char mask[32] = "";
    if (f.mask) std::snprintf(mask, sizeof mask, " with mask %08x", f.mask);
    if (groups > 1) text += "; ";
    text += "threads " + std::to_string(i) + "-" + std::to_string(last) + " wait at " +
            name_of(f.op) + mask + " (line " + std::to_string(f.site.line) + ")";
    i = last;
  }
  for (int i = 0; i < machine.threads; ++i)
    if (machine.warp[i / 32].live >> (i % 32) & 1) die(machine.fibers[i].site, "%s", text.c_str());
  die({nullptr, 0}, "%s", text.c_str());
}

inline void run_block() {
  const Picker picker;
  for (int last = -1; machine.live > 0;) {
    const int thread = picker.next(last);
    if (thread < 0) report_deadlock();
    switch_thread(thread);
    if (machine.failed) throw std::runtime_error(machine.message);
    last = thread;
  }
  arena().check_guards();
}

// Marks the machine as taken by one launch.
struct InUse {
  InUse() {
    static_assert(std::atomic_ref<bool>::is_always_lock_free);
    if (std::atomic_ref<bool>(machine.in_use).exchange(true)) {
      std::fprintf(stderr, "simt: a launch while another host thread's (or a kernel's) runs\n");
      std::abort();
    }
    machine.failed = false;
    machine.current = -1;
  }
  ~InUse() {
    if (machine.failed) tsan_fibers().forget();
    std::atomic_ref<bool>(machine.in_use).store(false);
  }
};

inline cudaError_t run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*),
                            const void* arguments) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (blocks == 0) return cudaSuccess;
  if (threads == 0 || threads > kMaxThreads || block.z > 64 || grid.x > 0x7fffffffu ||
      grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (shared_bytes > static_cast<size_t>(settings().shared_per_block)) return cudaErrorInvalidValue;
  InUse in_use;
  Machine& m = machine;
  m.schedule = current_schedule();
  m.threads = static_cast<int>(threads);
  m.warps = (m.threads + 31) / 32;
  m.shared_bytes = shared_bytes;
  m.body = body;
  m.arguments = arguments;
  blockDim = block;
  gridDim = grid;
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t{0});
  Random random{current_seed()};
  if (m.schedule == Schedule::reverse) std::reverse(order.begin(), order.end());
  if (m.schedule == Schedule::random || m.schedule == Schedule::greedy)
    for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
  tsan_fibers().begin_launch();
  uint64_t end_key = 0;
  m.end_key = &end_key;
#ifdef SIMT_TSAN
  m.main.tsan = __tsan_get_current_fiber();
#endif
  for (const uint64_t n : order) {
    m.random = Random{random.next()};
    const uint3 index = {static_cast<unsigned>(n % grid.x),
                         static_cast<unsigned>(n / grid.x % grid.y),
                         static_cast<unsigned>(n / grid.x / grid.y)};
    begin_block(index, block);
    run_block();
  }
  acquire(&end_key);  // what the blocks did comes before what the host does next
  return cudaSuccess;
}

}  // namespace simt::detail

namespace simt {

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A&&... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> parameters;
  };
  // The conversions that a call makes, once, when launched.
  const auto convert = [](P... parameters) { return std::tuple<P...>(parameters...); };
  const Call call{kernel, convert(std::forward<A>(args)...)};
  return detail::run_grid(
      grid, block, shared_bytes,
      [](const void* context) {
        const Call& c = *static_cast<const Call*>(context);
        std::apply(c.kernel, c.parameters);
      },
      &call);
}

}  // namespace simt
