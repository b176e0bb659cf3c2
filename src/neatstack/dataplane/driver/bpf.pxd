"""What steer.py and pins.py use of libbpf."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<bpf/bpf.h>" nogil:
    enum:
        BPF_ANY
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_map_get_next_key(int fd, const void *key, void *next_key)
    ctypedef struct BatchOptions "struct bpf_map_batch_opts":
        pass
    int bpf_map_lookup_batch(int fd, void *at, void *next, void *keys, void *values, uint32_t *count, const BatchOptions *options)
    int bpf_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count, const BatchOptions *options)
    int bpf_map_delete_batch(int fd, const void *keys, uint32_t *count, const BatchOptions *options)
    ctypedef struct TestRun "struct bpf_test_run_opts":
        size_t sz
        const void *data_in
        uint32_t data_size_in
        uint32_t retval
        uint32_t duration
        int repeat
    int bpf_prog_test_run_opts(int program, TestRun *options)

cdef extern from "<bpf/libbpf.h>" nogil:
    ctypedef struct bpf_object "struct bpf_object":
        pass
    ctypedef struct bpf_program "struct bpf_program":
        pass
    ctypedef int (*Print "libbpf_print_fn_t")(int level, const char *format, void *arguments)
    Print libbpf_set_print(Print function)
    bpf_object *bpf_object_open "bpf_object__open"(const char *path)
    int bpf_object_load "bpf_object__load"(bpf_object *object)
    void bpf_object_close "bpf_object__close"(bpf_object *object)
    int bpf_object_find_map_fd "bpf_object__find_map_fd_by_name"(bpf_object *object, const char *name)
    bpf_program *bpf_object_find_program "bpf_object__find_program_by_name"(bpf_object *object, const char *name)
    int bpf_program_fd "bpf_program__fd"(const bpf_program *program)

cdef extern from "<linux/if_tun.h>" nogil:
    enum:
        TUNSETSTEERINGEBPF
