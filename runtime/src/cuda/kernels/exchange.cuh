// Handing a vector from the blocks that computed it to every block, without a grid barrier.
//
// Values lie in slots of 16 bytes: three f32 and a ticket. A slot is written and read as one 16-byte access, so a reader
// that sees the ticket it waits for has the values too. Tickets only grow, so nothing is ever cleared. A slot is written
// again only after every reader has published something that depends on what it read (the order of phases in
// decode.cu), which is why one buffer per vector is enough.
#pragma once
#include "common.cuh"

struct Slot {
    float v[3];
    uint32_t ticket;
};

__device__ __forceinline__ void publish(uint4* slot, float a, float b, float c, uint32_t ticket) {
    const uint64_t low = static_cast<uint64_t>(__float_as_uint(b)) << 32 | __float_as_uint(a);
    const uint64_t high = static_cast<uint64_t>(ticket) << 32 | __float_as_uint(c);
    asm volatile("{.reg .b128 t; mov.b128 t, {%1, %2}; st.relaxed.gpu.global.b128 [%0], t;}" ::"l"(slot), "l"(low),
                 "l"(high)
                 : "memory");
}

__device__ __forceinline__ Slot look(const uint4* slot) {
    uint64_t low, high;
    asm volatile("{.reg .b128 t; ld.relaxed.gpu.global.b128 t, [%2]; mov.b128 {%0, %1}, t;}"
                 : "=l"(low), "=l"(high)
                 : "l"(slot)
                 : "memory");
    return Slot{{__uint_as_float(static_cast<uint32_t>(low)), __uint_as_float(static_cast<uint32_t>(low >> 32)),
                 __uint_as_float(static_cast<uint32_t>(high))},
                static_cast<uint32_t>(high >> 32)};
}

// Waits for the ticket.
__device__ __forceinline__ Slot receive(const uint4* slot, uint32_t ticket) {
    Slot found = look(slot);
    while (found.ticket != ticket) found = look(slot);
    return found;
}

constexpr int EACH_SLOT = 3;
__device__ __forceinline__ int slots_of(int n) { return (n + EACH_SLOT - 1) / EACH_SLOT; }

// The slots [first, last) of `slots` that block `block` of `blocks` writes.
__device__ __forceinline__ int first_slot(int slots, int block, int blocks) {
    return static_cast<int>(static_cast<unsigned>(slots) * static_cast<unsigned>(block) / static_cast<unsigned>(blocks));
}

// Bulk copies to shared memory that arrive on a barrier of their own.
__device__ __forceinline__ void barrier_init(uint32_t barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Bytes of a copy, beside those that `barrier_expect` will tell later.
__device__ __forceinline__ void barrier_expect_more(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{.reg .pred done; waiting: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra waiting;}" ::"r"(
            barrier),
        "r"(parity)
        : "memory");
}
// `bytes` and both addresses are multiples of 16.
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
// Brings `bytes` into the L2 cache.
__device__ __forceinline__ void bulk_prefetch(const void* from, uint32_t bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
