// Stacks and the change from one to another, with what the sanitizers must be told about it.
// No CUDA here: machine.h decides who runs.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#define SIMT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif

// The emulator's own state is shared by all fibers without any order that TSan could see. Whatever
// touches it on a fiber's behalf carries this mark, and calls nothing of the standard library.
#define SIMT_INTERNAL __attribute__((no_sanitize("thread"), no_sanitize("address")))

#if defined(__x86_64__) && !defined(DOM2_SIMT_UCONTEXT)
#define SIMT_ASSEMBLY_SWITCH 1
#else
#include <ucontext.h>
#endif

#ifdef SIMT_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif
#ifdef SIMT_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_poison_memory_region(const volatile void* address, size_t size);
void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}
#endif

namespace simt::detail {

struct Context {
  void* stack_pointer = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
  void* tsan = nullptr;
  void* fake_stack = nullptr;  // ASan's
#ifndef SIMT_ASSEMBLY_SWITCH
  ucontext_t saved;
#endif
};

#ifdef SIMT_ASSEMBLY_SWITCH
// Saves what the System V ABI asks a callee to keep, and continues where `to` was saved.
__attribute__((naked, noinline, no_sanitize("thread"), no_sanitize("address"),
               no_sanitize("undefined"))) inline void
switch_stack(void** /*from*/, void* /*to*/) {
  asm("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\t"
      "popq %rcx\n\tjmp *%rcx");
}
#endif

// Makes `context` start `entry` on the stack [bottom, bottom + size). `entry` never returns.
SIMT_INTERNAL inline void prepare(Context& context, char* bottom, size_t size, void (*entry)()) {
  context.bottom = bottom;
  context.size = size;
  context.fake_stack = nullptr;
#ifdef SIMT_ASSEMBLY_SWITCH
  // Six registers, the address to return to, and a zero where a caller's address would be, so
  // that stack walks end here. At `entry` the stack pointer is 8 modulo 16, as after a call.
  void** top = reinterpret_cast<void**>(bottom + size);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack_pointer = top;
#else
  getcontext(&context.saved);
  context.saved.uc_stack.ss_sp = bottom;
  context.saved.uc_stack.ss_size = size;
  context.saved.uc_link = nullptr;
  makecontext(&context.saved, entry, 0);
#endif
}

// Called first on a new stack; tells ASan, and learns where the caller's stack lies.
SIMT_INTERNAL inline void arrived([[maybe_unused]] Context& self, [[maybe_unused]] Context& from) {
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(self.fake_stack, &from.bottom, &from.size);
#endif
}

SIMT_INTERNAL inline void switch_to(Context& from, Context& to) {
#ifdef SIMT_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
#ifdef SIMT_TSAN
  __tsan_switch_to_fiber(to.tsan, 1);  // 1: no order between the two
#endif
#ifdef SIMT_ASSEMBLY_SWITCH
  switch_stack(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.saved, &to.saved);
#endif
  arrived(from, to);
}

SIMT_INTERNAL inline void acquire([[maybe_unused]] void* key) {
#ifdef SIMT_TSAN
  __tsan_acquire(key);
#endif
}

SIMT_INTERNAL inline void release([[maybe_unused]] void* key) {
#ifdef SIMT_TSAN
  __tsan_release(key);
#endif
}

SIMT_INTERNAL inline void poison([[maybe_unused]] void* address, [[maybe_unused]] size_t size) {
#ifdef SIMT_ASAN
  __asan_poison_memory_region(address, size);
#endif
}

SIMT_INTERNAL inline void unpoison([[maybe_unused]] void* address, [[maybe_unused]] size_t size) {
#ifdef SIMT_ASAN
  __asan_unpoison_memory_region(address, size);
#endif
}

}  // namespace simt::detail
