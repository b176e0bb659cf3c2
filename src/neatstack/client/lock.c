/* Locks that work between threads and between processes, and survive the death of a holder.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <linux/futex.h>

#define SPINS 50
#define LOOK_NS 2000000 /* how long to wait before asking whether the holder still lives */

__thread uint32_t thread_id __attribute__((tls_model("initial-exec")));

uint32_t find_thread_id(void)
{
    thread_id = (uint32_t)syscall(SYS_gettid);
    return thread_id;
}

static bool dead(uint32_t holder)
{
    return syscall(SYS_tkill, holder, 0) < 0 && errno == ESRCH;
}

static bool take(uint32_t *word, uint32_t expected, uint32_t value)
{
    return __atomic_compare_exchange_n(word, &expected, value, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* The slow way: spin a little, then sleep on the futex. A lock taken here always counts as contended, which costs one
 * needless wake at most. */
void lock_wait(uint32_t *word)
{
    const struct timespec look = {.tv_nsec = LOOK_NS};
    uint32_t me = thread_id;
    int saved = errno;

    for (int i = 0; i < SPINS; i++) {
        if (load_relaxed(word) == 0 && take(word, 0, me))
            return;
        __builtin_ia32_pause();
    }
    for (;;) {
        uint32_t old = load_relaxed(word);
        uint32_t holder = old & ~FUTEX_WAITERS;
        if (old == 0) {
            if (take(word, 0, me | FUTEX_WAITERS))
                break;
            continue;
        }
        if (holder == me) /* a signal handler in the middle of an operation: going on is better than standing still */
            break;
        if (!(old & FUTEX_WAITERS) && !take(word, old, old | FUTEX_WAITERS))
            continue;
        if (syscall(SYS_futex, word, FUTEX_WAIT, old | FUTEX_WAITERS, &look, NULL, 0) < 0 && errno == ETIMEDOUT &&
            dead(holder) && take(word, old | FUTEX_WAITERS, me | FUTEX_WAITERS))
            break;
    }
    errno = saved;
}

void lock_wake(uint32_t *word)
{
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    errno = saved;
}
