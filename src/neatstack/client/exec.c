/* exec: sockets without close-on-exec live on in the new program.
 *
 * What the library knows goes into a memfd, whose number the new image finds in its environment; the descriptors that it
 * needs are left open for it. The constructor of the new image takes everything up again, closes what was close-on-exec,
 * and tells the manager. If exec fails, all is as before. Epoll sets do not survive: they hold kernel descriptors only afterwards.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define VARIABLE "NEAT_EXEC"
#define LONGEST_VARIABLE 8192

struct saved_channels {
    uint32_t number;
    int memory_fd[NEAT_MAX_REPLICAS];
    uint32_t fresh[NEAT_MAX_REPLICAS];
};

struct saved {
    uint32_t magic, version, sock_size;
    pid_t pid;
    uint64_t token;
    uint32_t replicas, own_number;
    int page_fd, doorbell, placeholder;
    int peer_page_fd[NEAT_MAX_REPLICAS], peer_doorbell[NEAT_MAX_REPLICAS];
    uint32_t sets, socks, descriptors;
    /* follow: sets of struct saved_channels, socks of struct description, descriptors of struct saved_descriptor */
};

struct saved_descriptor {
    int fd;
    uint32_t sock;
};

static char library[PATH_MAX];
static char preload_variable[LONGEST_VARIABLE], stack_variable[PATH_MAX + 16], exec_variable[32];
static int saved_fd = -1;

/* Remember where this library lies, so that a program that clears its environment is followed all the same. */
void exec_remember(void)
{
    Dl_info info;
    if (dladdr((void *)exec_remember, &info) && info.dli_fname)
        snprintf(library, sizeof library, "%s", info.dli_fname);
}

/* ---- saving ---- */

static uint32_t socks_saved, descriptors_saved;

static bool save(const void *data, size_t size)
{
    return syscall(SYS_write, saved_fd, data, size) == (ssize_t)size;
}

static bool lives_in_slot(const struct sock *s)
{
    return s->phase != PHASE_POSTED && s->phase != PHASE_ARRIVED && s->phase != PHASE_LEG;
}

static void save_sock(struct file *file)
{
    struct sock *s = (struct sock *)file;
    struct description about;

    if (!lives_in_slot(s))
        return;
    describe(s, &about);
    socks_saved += save(&about, description_size(s));
}

static uint32_t position;
static const struct sock *sought;
static uint32_t found_at;

static void count_to(struct file *file)
{
    if (!lives_in_slot((struct sock *)file))
        return;
    if ((struct sock *)file == sought)
        found_at = position;
    position++;
}

static uint32_t index_of(const struct sock *s)
{
    position = 0;
    sought = s;
    each_sock(count_to);
    return found_at;
}

static void save_descriptors(void)
{
    for (int fd = 0; fd < neat.table_end; fd++) {
        struct sock *s = sock_of(fd);
        int flags = s ? (int)syscall(SYS_fcntl, fd, F_GETFD) : -1;
        if (flags < 0 || (flags & FD_CLOEXEC))
            continue;
        struct saved_descriptor saved = {fd, index_of(s)};
        descriptors_saved += save(&saved, sizeof saved);
    }
}

static void save_channels(struct saved *header)
{
    for (unsigned n = 0; n < NEAT_MAX_CHANNELS; n++) {
        struct channels *set = neat.known[n];
        struct saved_channels saved = {.number = n};
        if (!set)
            continue;
        for (unsigned r = 0; r < neat.replicas; r++) {
            saved.memory_fd[r] = set->at[r].memory_fd;
            saved.fresh[r] = set->at[r].fresh;
        }
        header->sets += save(&saved, sizeof saved);
    }
}

static void for_new_image(bool keep)
{
    int flags = keep ? 0 : FD_CLOEXEC;
    int shared[] = {neat.page_fd, neat.doorbell, neat.placeholder, saved_fd};

    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        syscall(SYS_fcntl, shared[i], F_SETFD, flags);
    for (unsigned r = 0; r < neat.replicas; r++) {
        syscall(SYS_fcntl, neat.peers[r].page_fd, F_SETFD, flags);
        syscall(SYS_fcntl, neat.peers[r].doorbell, F_SETFD, flags);
        for (unsigned n = 0; n < NEAT_MAX_CHANNELS; n++)
            if (neat.known[n])
                syscall(SYS_fcntl, neat.known[n]->at[r].memory_fd, F_SETFD, flags);
    }
}

/* Write everything into saved_fd. Under neat.lock. */
static bool save_all(void)
{
    struct saved header = {.magic = NEAT_MAGIC,
                           .version = NEAT_LAYOUT_VERSION,
                           .sock_size = sizeof(struct sock),
                           .pid = neat.pid,
                           .token = neat.token,
                           .replicas = neat.replicas,
                           .own_number = neat.own->number,
                           .page_fd = neat.page_fd,
                           .doorbell = neat.doorbell,
                           .placeholder = neat.placeholder};

    saved_fd = (int)syscall(SYS_memfd_create, "neat-exec", MFD_CLOEXEC);
    if (saved_fd < 0)
        return false;
    own_add(&saved_fd);
    for (unsigned r = 0; r < neat.replicas; r++) {
        header.peer_page_fd[r] = neat.peers[r].page_fd;
        header.peer_doorbell[r] = neat.peers[r].doorbell;
    }
    socks_saved = descriptors_saved = 0;
    if (!save(&header, sizeof header))
        return false;
    save_channels(&header);
    each_sock(save_sock);
    save_descriptors();
    header.socks = socks_saved;
    header.descriptors = descriptors_saved;
    return syscall(SYS_pwrite64, saved_fd, &header, sizeof header, 0) == sizeof header;
}

/* ---- the environment ---- */

static bool is_variable(const char *entry, const char *name)
{
    size_t length = strlen(name);
    return !strncmp(entry, name, length) && entry[length] == '=';
}

static void add_preload(const char *given)
{
    if (!given)
        snprintf(preload_variable, sizeof preload_variable, "LD_PRELOAD=%s", library);
    else if (strstr(given, library))
        snprintf(preload_variable, sizeof preload_variable, "%s", given);
    else
        snprintf(preload_variable, sizeof preload_variable, "%s:%s", given, library);
}

/* A copy of the environment that leads the new image to the same stack. NULL: there is none, or no
 * memory. */
char **exec_lead(char *const *environment, size_t *bytes)
{
    size_t count = 0, used = 0;
    const char *preload = NULL;

    if (!neat.directory || !library[0])
        return NULL;
    while (environment && environment[count])
        count++;
    *bytes = (count + 4) * sizeof(char *);
    char **result = pages_new(*bytes);
    if (!result)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (is_variable(environment[i], "LD_PRELOAD"))
            preload = environment[i];
        else if (!is_variable(environment[i], "NEAT_STACK") && !is_variable(environment[i], VARIABLE))
            result[used++] = environment[i];
    }
    add_preload(preload);
    snprintf(stack_variable, sizeof stack_variable, "NEAT_STACK=%s", neat.directory);
    result[used++] = preload_variable;
    result[used++] = stack_variable;
    if (saved_fd >= 0) {
        snprintf(exec_variable, sizeof exec_variable, VARIABLE "=%d", saved_fd);
        result[used++] = exec_variable;
    }
    return result;
}

/* Get ready for exec: the environment to use. To be undone by exec_failed(). */
char **exec_prepare(char *const *environment, struct exec_state *state)
{
    state->saved = false;
    state->environment = NULL;
    if (!neat.directory || !library[0])
        return (char **)environment;
    if (neat.open && is_us()) {
        lock(&neat.lock);
        state->saved = save_all();
        if (state->saved)
            for_new_image(true);
        else
            own_close(&saved_fd);
        unlock(&neat.lock);
    }
    state->environment = exec_lead(environment, &state->bytes);
    return state->environment ? state->environment : (char **)environment;
}

void exec_failed(struct exec_state *state)
{
    int saved = errno;
    if (state->saved) {
        for_new_image(false);
        own_close(&saved_fd);
    }
    if (state->environment)
        pages_free(state->environment, state->bytes);
    errno = saved;
}

/* ---- restoring ---- */

static bool load(void *data, size_t size)
{
    return syscall(SYS_read, saved_fd, data, size) == (ssize_t)size;
}

static int keep(int fd)
{
    syscall(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static bool restore_channels(const struct saved *header)
{
    for (uint32_t i = 0; i < header->sets; i++) {
        struct saved_channels saved;
        if (!load(&saved, sizeof saved) || saved.number >= NEAT_MAX_CHANNELS)
            return false;
        struct channels *set = channels_new(saved.number);
        if (!set)
            return false;
        for (unsigned r = 0; r < neat.replicas; r++) {
            if (saved.memory_fd[r] < 0) /* only a part was ever mapped: see rights.c */
                continue;
            set->at[r].memory_fd = keep(saved.memory_fd[r]);
            own_add(&set->at[r].memory_fd);
            if (channel_map(&set->at[r]))
                return false;
            set->at[r].fresh = saved.fresh[r];
        }
        neat.known[saved.number] = set;
    }
    neat.own = neat.known[header->own_number];
    return neat.own != NULL;
}

static struct sock *restore_sock(void)
{
    struct description about;
    size_t first = offsetof(struct description, udp);

    if (!load(&about, first) || (about.sock.udp && !load(&about.udp, sizeof about - first)))
        return NULL;
    return sock_described(&about);
}

/* The sockets, then their descriptors; those that have none any more are closed. */
static bool restore_socks(const struct saved *header)
{
    size_t bytes = (header->socks + 1) * sizeof(struct sock *);
    struct sock **all = pages_new(bytes);
    struct saved_descriptor descriptor;
    bool fine = all && table_ready();

    for (uint32_t i = 0; fine && i < header->socks; i++)
        fine = (all[i] = restore_sock()) != NULL;
    for (uint32_t i = 0; fine && i < header->descriptors; i++) {
        fine = load(&descriptor, sizeof descriptor) && descriptor.sock < header->socks;
        if (fine)
            table_put(descriptor.fd, &all[descriptor.sock]->file);
    }
    for (unsigned r = 0; r < neat.replicas; r++)
        slots_recover(&neat.own->at[r], r);
    for (uint32_t i = 0; fine && i < header->socks; i++)
        if (!all[i]->file.references)
            sock_drop(all[i]);
    if (all)
        pages_free(all, bytes);
    return fine;
}

static bool restore_process(const struct saved *header)
{
    neat.token = header->token;
    neat.replicas = header->replicas;
    neat.page_fd = keep(header->page_fd);
    neat.doorbell = keep(header->doorbell);
    own_add(&neat.page_fd);
    own_add(&neat.doorbell);
    neat.placeholder = header->placeholder;
    if (neat.placeholder >= 0) {
        keep(neat.placeholder);
        own_add(&neat.placeholder);
    }
    for (unsigned r = 0; r < neat.replicas; r++) {
        neat.peers[r].page_fd = keep(header->peer_page_fd[r]);
        neat.peers[r].doorbell = keep(header->peer_doorbell[r]);
        own_add(&neat.peers[r].page_fd);
        own_add(&neat.peers[r].doorbell);
    }
    return manager_map_pages() == 0 && restore_channels(header);
}

/* In the constructor: take up what the former image has left. */
void exec_restore(void)
{
    const char *value = getenv(VARIABLE);
    struct saved header;

    if (!value)
        return;
    saved_fd = atoi(value);
    unsetenv(VARIABLE);
    if (syscall(SYS_lseek, saved_fd, 0, SEEK_SET) != 0 || !load(&header, sizeof header) ||
        header.magic != NEAT_MAGIC || header.version != NEAT_LAYOUT_VERSION ||
        header.sock_size != sizeof(struct sock) || header.replicas > NEAT_MAX_REPLICAS || header.pid != neat.pid) {
        saved_fd = -1;
        return;
    }
    own_add(&saved_fd);
    if (restore_process(&header) && manager_claim() == 0) {
        store_release(&neat.open, true);
        if (!restore_socks(&header))
            complain("some sockets could not be kept over exec");
    } else {
        complain("sockets could not be kept over exec");
    }
    own_close(&saved_fd);
}
