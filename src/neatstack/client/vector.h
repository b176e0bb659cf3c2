/* The buffers that a caller gives.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_CLIENT_VECTOR_H
#define NEAT_CLIENT_VECTOR_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define FIRST_ADDRESS 4096 /* no program has memory below it, nor in the kernel's half, whose addresses are negative */

static inline size_t iovec_length(const struct iovec *iov, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += iov[i].iov_len;
    return total;
}

/* Whether it is seen at a glance that nothing is at `memory`: EFAULT. Another bad pointer ends the program, as with memcpy(): to
 * find out would be a system call each time. */
static inline bool nowhere(const void *memory)
{
    return __builtin_expect((intptr_t)memory < FIRST_ADDRESS, 0);
}

/* The same of the first `most` bytes of a vector. */
static inline bool vector_nowhere(const struct iovec *iov, size_t count, size_t most)
{
    for (size_t i = 0; i < count && most; i++) {
        size_t length = iov[i].iov_len < most ? iov[i].iov_len : most;
        if (length && nowhere(iov[i].iov_base))
            return true;
        most -= length;
    }
    return false;
}

/* A vector that cannot be taken: `too_many`, -EFAULT, or 0. */
static inline int vector_refused(const struct iovec *iov, size_t count, int too_many)
{
    if (count > IOV_MAX)
        return too_many;
    return count && nowhere(iov) ? -EFAULT : 0;
}

#endif
