"""What steer.py uses of libbpf, and the structures of steer.h."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<bpf/bpf.h>" nogil:
    enum:
        BPF_ANY
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_map_get_next_key(int fd, const void *key, void *next_key)
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

cdef extern from "neatstack/dataplane/driver/steer.h" nogil:
    enum:
        NEAT_STEER_BUCKETS
        NEAT_STEER_PINS
    ctypedef struct SteerConfig "struct neat_steer_config":
        uint64_t hash_key[3]
        uint32_t address_be
        uint32_t link_queue
        uint32_t pinned
        uint32_t pad
    ctypedef struct SteerFlow "struct neat_steer_flow":
        uint32_t source_be
        uint32_t destination_be
        uint16_t source_port_be
        uint16_t destination_port_be
        uint8_t protocol
        uint8_t pad[3]
