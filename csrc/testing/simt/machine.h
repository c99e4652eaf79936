// The state of the block that runs: its threads, where each waits, barriers and meetings of lanes.
// The fiber side: everything here runs on a thread's own stack. schedule.h is the other side.
#pragma once
#include <cstdarg>
#include <cstdio>

#include "cuda_types.h"
#include "fiber.h"

namespace simt::detail {

constexpr int kMaxThreads = 1024, kMaxWarps = 32, kMaxMeetings = 32, kMaxCopies = 256;
constexpr size_t kGuardBytes = 16384;  // on each side of the shared memory

// splitmix64: small, and the same everywhere.
struct Random {
  uint64_t state = 0;
  SIMT_INTERNAL uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  SIMT_INTERNAL unsigned below(unsigned n) {
    return static_cast<unsigned>((next() >> 32) * n >> 32);
  }
};

// The line of the kernel that called; a default argument, so that kernels need not know of it.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

enum class Op {
  none,
  sync,
  sync_or,
  sync_and,
  sync_count,
  syncwarp,
  shfl,
  shfl_xor,
  shfl_down,
  shfl_up,
  ballot,
  any,
  all,
  add,
  min,
  max,
  mma
};

inline const char* name_of(Op op) {
  constexpr const char* names[] = {"nothing",
                                   "__syncthreads",
                                   "__syncthreads_or",
                                   "__syncthreads_and",
                                   "__syncthreads_count",
                                   "__syncwarp",
                                   "__shfl_sync",
                                   "__shfl_xor_sync",
                                   "__shfl_down_sync",
                                   "__shfl_up_sync",
                                   "__ballot_sync",
                                   "__any_sync",
                                   "__all_sync",
                                   "__reduce_add_sync",
                                   "__reduce_min_sync",
                                   "__reduce_max_sync",
                                   "mma"};
  return names[static_cast<int>(op)];
}

// What a lane hands to the others.
union Slot {
  uint64_t bits;
  float values[12];
};

// The lanes of one mask come together here, again and again. A lane can be at most one meeting
// ahead of another, so two generations of slots and of TSan keys are enough.
struct Meeting {
  unsigned mask, arrived, leaving, generation;
  Op op;
  Site site;
  Slot slots[2][32];
  uint64_t keys[2];
};

struct Warp {
  unsigned live, ready;  // lanes that have not exited; lanes that can run
  int meetings;
  Meeting meeting[kMaxMeetings];
};

struct Barrier {
  int arrived, generation;
  int votes[2], participants[2];
  Op op;
  uint64_t keys[2];
  uint64_t start_key;  // the order of a block after what the host did before
};

// One cp.async that has not landed.
struct Copy {
  unsigned char* to;
  const unsigned char* from;
  uint32_t bytes;
  int group;  // -1 before the commit
  bool zero;
  Site site;
  uint32_t before[4];  // the source when the copy was issued
};

struct Fiber {
  Context context;
  uint3 index;
  Op op;  // what it waits at
  unsigned mask;
  Site site;
  Copy* copies;
  int pending, groups;
  bool fenced;
};

struct Machine {
  Schedule schedule;
  Random random;
  int threads, warps, live, current;  // current: -1 on the main stack
  Fiber fibers[kMaxThreads];
  Context main;
  Warp* warp;
  Barrier* barrier;
  void* end_key;  // where finished threads leave their order for the end of the launch
  unsigned char* shared;
  size_t shared_bytes;
  void (*body)(const void*);
  const void* arguments;
  bool failed, in_use;
  char message[2048];
};

inline Machine machine;

}  // namespace simt::detail

// What kernels read. Only schedule.h writes them, for TSan unseen while blocks run.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace simt::detail {

SIMT_INTERNAL inline Fiber& self() { return machine.fibers[machine.current]; }
SIMT_INTERNAL inline Warp& own_warp() { return machine.warp[machine.current / 32]; }
SIMT_INTERNAL inline unsigned own_lane() { return static_cast<unsigned>(machine.current) % 32; }

SIMT_INTERNAL inline bool self_fenced() { return self().fenced; }
SIMT_INTERNAL inline void set_fenced() { self().fenced = true; }

// Ends the launch: from a fiber the main stack throws or aborts, on the main stack it happens here.
[[noreturn]] void give_up();

[[noreturn]] inline void die(Site site, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

[[noreturn]] SIMT_INTERNAL inline void die(Site site, const char* format, ...) {
  char reason[1024], where[160] = "";
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  if (machine.current >= 0) {
    const uint3 t = self().index;
    std::snprintf(where, sizeof where, ", thread (%u,%u,%u), warp %d, lane %u", t.x, t.y, t.z,
                  machine.current / 32, own_lane());
  }
  char line[256] = "";
  if (site.file) std::snprintf(line, sizeof line, "%s:%d: ", site.file, site.line);
  std::snprintf(machine.message, sizeof machine.message, "simt: %s%s [block (%u,%u,%u)%s]", line,
                reason, blockIdx.x, blockIdx.y, blockIdx.z, where);
  give_up();
}

SIMT_INTERNAL inline void leave_to_main() { switch_to(self().context, machine.main); }

[[noreturn]] SIMT_INTERNAL inline void give_up() {
#ifdef DOM2_SIMT_THROW
  machine.failed = true;
  if (machine.current >= 0) {
    leave_to_main();  // never returns: the block is abandoned
    __builtin_unreachable();
  }
  throw std::runtime_error(machine.message);
#else
  std::fprintf(stderr, "%s\n", machine.message);
  std::abort();
#endif
}

// Lets others run. `op` none: it may go on at any time.
SIMT_INTERNAL inline void pause(Op op, unsigned mask, Site site) {
  Fiber& f = self();
  f.op = op;
  f.mask = mask;
  f.site = site;
  leave_to_main();
  f.op = Op::none;
}

SIMT_INTERNAL inline void complete_barrier() {
  Barrier& b = *machine.barrier;
  b.participants[b.generation & 1] = b.arrived;
  b.arrived = 0;
  b.votes[++b.generation & 1] = 0;
  for (int w = 0; w < machine.warps; ++w) machine.warp[w].ready = machine.warp[w].live;
}

struct Votes {
  int count, participants;
};

SIMT_INTERNAL inline Votes meet_block(Op op, bool vote, Site site) {
  Barrier& b = *machine.barrier;
  if (b.arrived > 0 && b.op != op)
    die(site, "%s while other threads wait at %s", name_of(op), name_of(b.op));
  b.op = op;
  const int g = b.generation & 1;
  b.votes[g] += vote;
  own_warp().ready &= ~(1u << own_lane());
  release(&b.keys[g]);
  if (++b.arrived == machine.live) complete_barrier();
  pause(op, 0, site);
  acquire(&b.keys[g]);
  return {b.votes[g], b.participants[g]};
}

SIMT_INTERNAL inline Meeting& find_meeting(Warp& warp, unsigned mask, Site site) {
  Meeting* idle = nullptr;
  for (int i = 0; i < warp.meetings; ++i) {
    Meeting& m = warp.meeting[i];
    if (m.mask == mask) return m;
    if (m.arrived == 0 && m.leaving == 0) idle = &m;
  }
  if (warp.meetings < kMaxMeetings) {
    idle = &warp.meeting[warp.meetings++];
    idle->arrived = idle->leaving = idle->generation = 0;
  }
  if (!idle) die(site, "more than %d masks are in use at once", kMaxMeetings);
  idle->mask = mask;
  return *idle;
}

// Waits until all lanes of the mask are here, and returns what each of them brought.
SIMT_INTERNAL inline const Slot* meet_warp(Op op, unsigned mask, const Slot& brought, Site site) {
  Warp& warp = own_warp();
  const unsigned lane = own_lane();
  if (!(mask >> lane & 1)) die(site, "%s: the lane is not in its own mask %08x", name_of(op), mask);
  if (mask & ~warp.live)
    die(site, "%s: lane %d, in the mask %08x, has exited or does not exist", name_of(op),
        __builtin_ctz(mask & ~warp.live), mask);
  Meeting& m = find_meeting(warp, mask, site);
  if (m.arrived > 0 && m.op != op)
    die(site, "%s, but a lane of the same mask %08x waits at %s (%s:%d)", name_of(op), mask,
        name_of(m.op), m.site.file, m.site.line);
  m.op = op;
  m.site = site;
  const unsigned g = m.generation & 1, lanes = static_cast<unsigned>(__builtin_popcount(mask));
  m.slots[g][lane] = brought;
  warp.ready &= ~(1u << lane);
  release(&m.keys[g]);
  if (++m.arrived == lanes) {
    m.arrived = 0;
    m.leaving = lanes;
    ++m.generation;
    warp.ready |= mask;
  }
  pause(op, mask, site);
  acquire(&m.keys[g]);
  --m.leaving;
  return m.slots[g];
}

// Under the random schedule another thread may come first.
SIMT_INTERNAL inline void preempt() {
  if (machine.schedule == Schedule::random && machine.random.below(4) == 0)
    pause(Op::none, 0, {nullptr, 0});
}

SIMT_INTERNAL inline void exit_thread() {
  Warp& warp = own_warp();
  const unsigned bit = 1u << own_lane();
  warp.live &= ~bit;
  warp.ready &= ~bit;
  for (int i = 0; i < warp.meetings; ++i) {
    const Meeting& m = warp.meeting[i];
    if (m.arrived > 0 && (m.mask & bit))
      die(m.site, "%s: the lane has exited while others of the mask %08x wait for it",
          name_of(m.op), m.mask);
  }
  --machine.live;
  // Threads that have exited don't count at __syncthreads.
  if (machine.live > 0 && machine.barrier->arrived == machine.live) complete_barrier();
  release(machine.end_key);
  leave_to_main();
}

SIMT_INTERNAL inline void fiber_entry() {
  arrived(self().context, machine.main);
  acquire(&machine.barrier->start_key);
  machine.body(machine.arguments);
  exit_thread();
}

}  // namespace simt::detail
