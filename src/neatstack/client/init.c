/* What happens when the library is loaded: almost nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

struct neat neat = {.page_fd = -1, .doorbell = -1, .placeholder = -1, .manager = -1};
struct libc libc_functions;

/* Find the real functions. May run more than once, and before the constructor when another library's calls us. */
void libc_load(void)
{
#define REAL(result, name, ...) *(void **)&libc_functions.name = dlsym(RTLD_NEXT, #name);
#include "libc.def"
#undef REAL
    store_release(&libc_functions.ready, true);
}

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* xorshift64*, seeded by the kernel: choosing a replica must not be guessable from outside, no more. */
uint64_t random_u64(void)
{
    uint64_t x = load_relaxed(&neat.random);
    if (x == 0 && syscall(SYS_getrandom, &x, sizeof x, GRND_NONBLOCK) != sizeof x)
        x = (uint64_t)now_ns() ^ (uint64_t)neat.pid << 32;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    store_relaxed(&neat.random, x);
    return x * UINT64_C(2685821657736338717);
}

/* One line on standard error, once for each process. */
void complain(const char *what)
{
    char line[256];
    size_t length = 0;
    const char *parts[] = {"neat: ", what, " (", neat.directory ? neat.directory : "NEAT_STACK is not set", ")\n"};

    if (__atomic_exchange_n(&neat.reported, true, __ATOMIC_RELAXED))
        return;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t part = strnlen(parts[i], sizeof line - length - 1);
        memcpy(line + length, parts[i], part);
        length += part;
    }
    syscall(SYS_write, STDERR_FILENO, line, length);
}

__attribute__((constructor)) static void load(void)
{
    const char *directory = getenv("NEAT_STACK");
    libc_load();
    neat.pid = getpid();
    neat.directory = directory ? strdup(directory) : NULL;
    pthread_atfork(fork_prepare, fork_parent, fork_child);
    exec_remember();
    exec_restore();
}

__attribute__((destructor)) static void unload(void)
{
    process_end();
}
