/* The program that libFuzzer runs: an interpreter with the sanitised data plane, and a function of targets.py.
 *
 * usage: NEAT_FUZZ_TARGET=frames harness [LIBFUZZER OPTION]... CORPUS...        built and called by fuzz.sh
 *
 * Inputs are sequences of records of RECORD bytes (targets.py says what they mean). Half of the mutations are libFuzzer's
 * own; the other half keeps records whole: repeats, drops, moves or changes one.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD = 16 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

static PyObject *target;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("NEAT_FUZZ_TARGET");
    PyObject *module;

    (void)argc, (void)argv;
    Py_InitializeEx(0);
    module = PyImport_ImportModule("tests.fuzz.targets");
    target = module ? PyObject_CallMethod(module, "target", "s", name ? name : "") : NULL;
    if (!target) {
        PyErr_Print();
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *result = PyObject_CallFunction(target, "y#", (const char *)data, (Py_ssize_t)size);

    if (!result) {
        PyErr_Print();
        fflush(NULL);
        abort(); /* libFuzzer saves the input */
    }
    Py_DECREF(result);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed)
{
    size_t records = size / RECORD, from, to;
    uint8_t saved[RECORD];

    srand(seed);
    if (records < 1 || rand() % 2)
        return LLVMFuzzerMutate(data, size, most);
    from = (size_t)rand() % records * RECORD;
    to = (size_t)rand() % records * RECORD;
    switch (rand() % 4) {
    case 0: /* once more, somewhere else */
        if (size + RECORD > most)
            break;
        memcpy(saved, data + from, RECORD);
        memmove(data + to + RECORD, data + to, size - to);
        memcpy(data + to, saved, RECORD);
        return size + RECORD;
    case 1:
        memmove(data + from, data + from + RECORD, size - from - RECORD);
        return size - RECORD;
    case 2: /* two change places */
        memcpy(saved, data + from, RECORD);
        memmove(data + from, data + to, RECORD);
        memcpy(data + to, saved, RECORD);
        return size;
    }
    LLVMFuzzerMutate(data + from, RECORD, RECORD);
    return size;
}
