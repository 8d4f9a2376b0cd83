// Linked into what scripts/coverage builds, and into nothing else: notes in a file which blocks of a program have run.
// Every process of one program shares the file, and what a killed process has noted stays in it.
//
// The file: the number of blocks, for each its address in the program and its flags (1: a function begins), all of 64
// bits; then for each a byte that is 1 when it has run. Beside it `<name>.program`: the path of the program.

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern const char __ehdr_start[] __attribute__((visibility("hidden")));

static volatile unsigned char *ran;
static size_t guards;

void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop) {
    if (start == stop || *start) return; // Each module asks, for all together.
    for (uint32_t *guard = start; guard < stop; guard++) *guard = (uint32_t)++guards;
}

static void name_program(const char *file) {
    char name[600], program[4096];
    snprintf(name, sizeof name, "%s.program", file);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program);
    int out = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (out < 0) return; // Another process was first.
    if (length > 0 && write(out, program, (size_t)length) != length) unlink(name);
    close(out);
}

// From the program's beginning, wherever it was loaded. A block that was optimized away has no address.
static uint64_t offset(uintptr_t address) {
    return address > (uintptr_t)__ehdr_start ? address - (uintptr_t)__ehdr_start : 0;
}

void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop) {
    size_t blocks = (size_t)(stop - start) / 2;
    if (ran || blocks == 0 || blocks != guards) return;
    uint64_t hash = 14695981039346656037u;
    for (size_t place = 0; place < 2 * blocks; place += 2)
        hash = (hash ^ offset(start[place])) * 1099511628211u;
    char file[512];
    snprintf(file, sizeof file, "%s/%016llx", COVERAGE_DIRECTORY, (unsigned long long)hash);
    size_t table = 8 + blocks * 16, size = table + blocks + 1;
    int descriptor = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) return;
    if (ftruncate(descriptor, (off_t)size) == 0) {
        char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (map != MAP_FAILED) {
            // Every process writes the same.
            uint64_t *words = (uint64_t *)map;
            words[0] = blocks;
            for (size_t place = 0; place < 2 * blocks; place += 2) {
                words[1 + place] = offset(start[place]);
                words[2 + place] = start[place + 1];
            }
            name_program(file);
            ran = (volatile unsigned char *)map + table - 1; // Guards count from 1.
        }
    }
    close(descriptor);
}

void __sanitizer_cov_trace_pc_guard(uint32_t *guard) {
    if (ran && *guard) ran[*guard] = 1;
}
