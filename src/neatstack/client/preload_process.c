/* The names that programs call: fork, exec, exit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"
#include "preload.h"

#include <spawn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- fork: the work is done by handlers of pthread_atfork(), which libc's own callers of fork() run too ---- */

EXPORT pid_t fork(void)
{
    pid_t pid = real()->fork();
    if (pid < 0)
        fork_failed();
    return pid;
}

/* A child that shares its parent's memory could not have channels of its own. */
EXPORT pid_t vfork(void) __attribute__((alias("fork"), nothrow));
EXPORT pid_t __fork(void) __attribute__((alias("fork"), nothrow));
EXPORT pid_t __vfork(void) __attribute__((alias("fork"), nothrow));

/* Without handlers by definition, but not without channels. */
EXPORT pid_t _Fork(void)
{
    fork_prepare();
    pid_t pid = real()->_Fork();
    if (pid == 0)
        fork_child();
    else
        fork_parent();
    if (pid < 0)
        fork_failed();
    return pid;
}

/* ---- exec ---- */

EXPORT int execve(const char *path, char *const arguments[], char *const environment[])
{
    struct exec_state state;
    real()->execve(path, arguments, exec_prepare(environment, &state));
    exec_failed(&state);
    return -1;
}

EXPORT int execvpe(const char *file, char *const arguments[], char *const environment[])
{
    struct exec_state state;
    real()->execvpe(file, arguments, exec_prepare(environment, &state));
    exec_failed(&state);
    return -1;
}

EXPORT int fexecve(int fd, char *const arguments[], char *const environment[])
{
    struct exec_state state;
    real()->fexecve(fd, arguments, exec_prepare(environment, &state));
    exec_failed(&state);
    return -1;
}

EXPORT int execveat(int fd, const char *path, char *const arguments[], char *const environment[], int flags)
{
    struct exec_state state;
    real()->execveat(fd, path, arguments, exec_prepare(environment, &state), flags);
    exec_failed(&state);
    return -1;
}

EXPORT int execv(const char *path, char *const arguments[])
{
    return execve(path, arguments, environ);
}

EXPORT int execvp(const char *file, char *const arguments[])
{
    return execvpe(file, arguments, environ);
}

/* The arguments of execl() and its like, the list ended by NULL. */
#define COLLECT(first, last, name)                                                                                     \
    size_t count_ = 1;                                                                                                 \
    va_start(list, last);                                                                                              \
    while (va_arg(list, char *))                                                                                       \
        count_++;                                                                                                      \
    va_end(list);                                                                                                      \
    char *name[count_ + 1];                                                                                            \
    name[0] = (char *)(first);                                                                                         \
    va_start(list, last);                                                                                              \
    for (size_t i_ = 1; i_ <= count_; i_++)                                                                            \
        name[i_] = va_arg(list, char *);

EXPORT int execl(const char *path, const char *first, ...)
{
    va_list list;
    COLLECT(first, first, arguments)
    va_end(list);
    return execve(path, arguments, environ);
}

EXPORT int execlp(const char *file, const char *first, ...)
{
    va_list list;
    COLLECT(first, first, arguments)
    va_end(list);
    return execvpe(file, arguments, environ);
}

EXPORT int execle(const char *path, const char *first, ...)
{
    va_list list;
    COLLECT(first, first, arguments)
    char *const *environment = va_arg(list, char *const *);
    va_end(list);
    return execve(path, arguments, environment);
}

/* The new process starts without our sockets (its descriptors of them are placeholders), but on the same stack. */
EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    size_t bytes;
    char **led = exec_lead(environment, &bytes);
    int error = real()->posix_spawn(pid, path, actions, attributes, arguments, led ? led : environment);
    if (led)
        pages_free(led, bytes);
    return error;
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    size_t bytes;
    char **led = exec_lead(environment, &bytes);
    int error = real()->posix_spawnp(pid, file, actions, attributes, arguments, led ? led : environment);
    if (led)
        pages_free(led, bytes);
    return error;
}

/* ---- exit: exit() and the return of main() come by the library's destructor ---- */

EXPORT void _exit(int status)
{
    process_end();
    real()->_exit(status);
    __builtin_unreachable();
}

EXPORT void _Exit(int status) __attribute__((alias("_exit")));

/* ---- memory ---- */

/* A channel is gigabytes of address space, of which little is ever touched: lock that, as it is touched. */
EXPORT int mlockall(int flags)
{
    return real()->mlockall(neat.directory ? flags | MCL_ONFAULT : flags);
}
