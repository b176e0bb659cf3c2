/* What the files of the preload face share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_PRELOAD_H
#define NEAT_PRELOAD_H

#include "client.h"

#define EXPORT __attribute__((visibility("default")))

/* -1 and errno for a negative errno value. */
static inline ssize_t result(ssize_t value)
{
    if (likely(value >= 0))
        return value;
    errno = (int)-value;
    return -1;
}

#endif
