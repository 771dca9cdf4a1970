// Runs the blocks of a grid one after another, the threads of a block as fibers.
#include "emulated.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <deque>
#include <map>
#include <string>
#include <vector>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emulated {

Index thread, block, threads_in_block, blocks_in_grid;
void* dynamic_shared;

namespace {

const size_t STACK = 256 << 10;
const u32 THREADS_MAX = 1024;

enum State { READY, AT_BLOCK, AT_WARP, DONE };

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

struct Fiber {
    State state;
    bool started;
    jmp_buf at;
    ucontext_t context;
    unsigned char* stack = nullptr;
    const char* what;
    // Of the exchange: two turns, so that a lane that is ahead does not overwrite what another still reads.
    u32 turn;
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Warp {
    unsigned char slots[2][32 * SLOT];
};

struct Kernel {
    std::string kinds;
    Entry entry;
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

Fiber fibers[THREADS_MAX];
Warp warps[THREADS_MAX / 32];
jmp_buf scheduler;
u32 running;
Entry entry_now;
const u64* slots_now;
const char* name_now = "";
u64 launches;

void yield_now() {
    if (_setjmp(fibers[running].at) == 0) _longjmp(scheduler, 1);
}

void body() {
    entry_now(slots_now);
    Fiber& fiber = fibers[running];
    if (!fiber.open.empty() || [&] {
            for (auto& group : fiber.groups) {
                if (!group.empty()) return true;
            }
            return false;
        }()) {
        fault("a thread ended with copies under way");
    }
    fiber.state = DONE;
    _longjmp(scheduler, 1);
}

void resume(u32 index) {
    running = index;
    thread = Index{index, 0, 0};
    Fiber& fiber = fibers[index];
    if (_setjmp(scheduler) == 0) {
        if (fiber.started) _longjmp(fiber.at, 1);
        fiber.started = true;
        if (!fiber.stack) fiber.stack = (unsigned char*)malloc(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, body, 0);
        setcontext(&fiber.context);
    }
}

// Runs a warp as far as it gets alone: past all that its lanes do together, up to a barrier of the block or the end.
void run_warp(u32 warp, bool backwards) {
    Fiber* lanes = fibers + warp * 32;
    for (;;) {
        bool moved = false;
        for (u32 n = 0; n < 32; n++) {
            const u32 i = backwards ? 31 - n : n;
            if (lanes[i].state == READY) {
                resume(warp * 32 + i);
                moved = true;
            }
        }
        u32 together = 0;
        for (u32 i = 0; i < 32; i++) together += lanes[i].state == AT_WARP;
        if (together == 32) {
            for (u32 i = 0; i < 32; i++) {
                if (strcmp(lanes[i].what, lanes[0].what)) fault("lanes of a warp do different things together");
                lanes[i].state = READY;
            }
        } else if (!moved) {
            if (together) fault("some lanes wait for others of their warp that never come");
            return;
        }
    }
}

void run_block(u32 count, bool backwards) {
    for (u32 i = 0; i < count; i++) {
        fibers[i].state = READY;
        fibers[i].started = false;
        fibers[i].turn = 0;
        fibers[i].groups.clear();
        fibers[i].open.clear();
    }
    for (;;) {
        for (u32 n = 0; n < count / 32; n++) run_warp(backwards ? count / 32 - 1 - n : n, backwards);
        u32 done = 0, waiting = 0;
        for (u32 i = 0; i < count; i++) {
            done += fibers[i].state == DONE;
            waiting += fibers[i].state == AT_BLOCK;
        }
        if (done == count) return;
        if (waiting != count) fault("some threads wait at a barrier that others never reach");
        for (u32 i = 0; i < count; i++) fibers[i].state = READY;
    }
}

}  // namespace

void fault(const char* what) {
    fprintf(stderr, "emulated kernel %s, block (%u, %u, %u), thread %u: %s\n", name_now, block.x, block.y, block.z,
            thread.x, what);
    abort();
}

void wait_for_block() {
    fibers[running].state = AT_BLOCK;
    yield_now();
}

const unsigned char* exchange(const char* what, const void* given, u32 bytes) {
    Fiber& fiber = fibers[running];
    Warp& warp = warps[running / 32];
    unsigned char* slots = warp.slots[fiber.turn % 2];
    fiber.turn++;
    memcpy(slots + running % 32 * SLOT, given, bytes);
    fiber.what = what;
    fiber.state = AT_WARP;
    yield_now();
    return slots;
}

u32 lane() {
    return running % 32;
}

void copy_later(void* to, const void* from, bool valid) {
    fibers[running].open.push_back(Copy{to, from, valid});
}

void end_group() {
    Fiber& fiber = fibers[running];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void finish_groups(int pending) {
    Fiber& fiber = fibers[running];
    while ((int)fiber.groups.size() > pending) {
        for (const Copy& copy : fiber.groups.front()) {
            if (copy.valid) {
                memcpy(copy.to, copy.from, 16);
            } else {
                memset(copy.to, 0, 16);
            }
        }
        fiber.groups.pop_front();
    }
}

void add_kernel(const char* name, const char* kinds, Entry entry) {
    kernels()[name] = Kernel{kinds, entry};
}

}  // namespace emulated

// 0: it ran. 1: there is no such kernel. 2: its parameters are of other kinds. 3: the grid is not possible.
extern "C" int emulate(const char* name, const u32* grid, u32 block_threads, u32 shared_bytes, const u64* slots,
                       const char* kinds) {
    using namespace emulated;
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    if (found->second.kinds != kinds) return 2;
    const bool possible = grid[0] && grid[1] && grid[2] && grid[0] < 0x80000000u && grid[1] < 65536 && grid[2] < 65536 &&
                          block_threads && block_threads <= THREADS_MAX && block_threads % 32 == 0 &&
                          shared_bytes <= 48 << 10;
    if (!possible) return 3;
    // What is in shared memory at the start is anything; these are not-a-numbers.
    std::vector<unsigned char> memory(shared_bytes + 64, 0xff);
    dynamic_shared = (void*)(((uintptr_t)memory.data() + 63) / 64 * 64);
    name_now = found->first.c_str();
    entry_now = found->second.entry;
    slots_now = slots;
    threads_in_block = Index{block_threads, 1, 1};
    blocks_in_grid = Index{grid[0], grid[1], grid[2]};
    launches++;
    for (u32 z = 0; z < grid[2]; z++) {
        for (u32 y = 0; y < grid[1]; y++) {
            for (u32 x = 0; x < grid[0]; x++) {
                block = Index{x, y, z};
                run_block(block_threads, launches % 2 == 0);
            }
        }
    }
    return 0;
}
