// How fast each stretch between a file and a GPU is: reading by threads, copying into pinned
// memory, the bus, allocations.
//
// gcc -O3 -pthread road.c -o road -ldl && ./road FILE   (a file of some gigabytes)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long dptr;
typedef void *handle;
static int (*cuInit)(unsigned), (*cuCtxRetain)(handle *, int), (*cuCtxSet)(handle);
static int (*cuAlloc)(dptr *, size_t), (*cuFree)(dptr);
static int (*cuHostAlloc)(void **, size_t, unsigned);
static int (*cuCopyIn)(dptr, const void *, size_t, handle);
static int (*cuStream)(handle *, unsigned, int), (*cuSync)(handle);
static int (*cuEventCreate)(handle *, unsigned), (*cuEventRecord)(handle, handle);
static int (*cuEventQuery)(handle);

enum { SLOTS = 64, RING = 4, RING_BYTES = 4 << 20, PINNED_BYTES = 256 << 20 };
static int fd;
static size_t file_bytes, chunk;
static atomic_size_t next_chunk, filled[SLOTS], freed[SLOTS];
static char *pinned, *slot[SLOTS];
static handle stream, event[RING];
static dptr device;
static int into_pinned;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static size_t len_of(size_t number) {
    size_t left = file_bytes - number * chunk;
    return left < chunk ? left : chunk;
}

// Reads chunk after chunk into memory of its own, or into pinned memory.
static void *read_chunks(void *id) {
    char *to = into_pinned ? pinned + ((size_t)id * chunk) % PINNED_BYTES : aligned_alloc(4096, chunk);
    for (size_t it; (it = atomic_fetch_add(&next_chunk, 1)) * chunk < file_bytes;)
        if (pread(fd, to, len_of(it), it * chunk) != (ssize_t)len_of(it)) perror("pread");
    return 0;
}

// Reads chunk after chunk into the slot of its number, once that is free.
static void *read_ahead(void *unused) {
    (void)unused;
    for (size_t it; (it = atomic_fetch_add(&next_chunk, 1)) * chunk < file_bytes;) {
        while (atomic_load(&freed[it % SLOTS]) != it / SLOTS) usleep(20);
        if (pread(fd, slot[it % SLOTS], len_of(it), it * chunk) != (ssize_t)len_of(it)) perror("pread");
        atomic_store(&filled[it % SLOTS], it / SLOTS + 1);
    }
    return 0;
}

static void start(pthread_t *threads, int count, void *(*run)(void *)) {
    atomic_store(&next_chunk, 0);
    for (long it = 0; it < count; it++) pthread_create(&threads[it], 0, run, (void *)it);
}

static void report(const char *what, int threads, double seconds) {
    printf("%s, chunks of %zu KiB, %d threads: %.1f GB/s\n", what, chunk >> 10, threads, file_bytes / seconds / 1e9);
}

static void reading(const char *what, int count) {
    pthread_t threads[64];
    double begin = now();
    start(threads, count, read_chunks);
    for (int it = 0; it < count; it++) pthread_join(threads[it], 0);
    report(what, count, now() - begin);
}

// Threads read; this one copies into a pinned ring and hands that to the bus.
static void pipeline(int count) {
    pthread_t threads[64];
    for (int it = 0; it < SLOTS; it++) atomic_store(&filled[it], 0), atomic_store(&freed[it], 0);
    double begin = now();
    start(threads, count, read_ahead);
    size_t current = 0, used = 0;
    for (size_t it = 0; it * chunk < file_bytes; it++) {
        while (atomic_load(&filled[it % SLOTS]) != it / SLOTS + 1) __builtin_ia32_pause();
        if (used + len_of(it) > RING_BYTES) {
            cuEventRecord(event[current], stream);
            current = (current + 1) % RING, used = 0;
            while (cuEventQuery(event[current])) __builtin_ia32_pause();
        }
        char *place = pinned + current * RING_BYTES + used;
        memcpy(place, slot[it % SLOTS], len_of(it));
        cuCopyIn(device + (it * chunk) % (1u << 30), place, len_of(it), stream);
        used += len_of(it);
        atomic_store(&freed[it % SLOTS], it / SLOTS + 1);
    }
    cuSync(stream);
    double seconds = now() - begin;
    for (int it = 0; it < count; it++) pthread_join(threads[it], 0);
    report("read, copied by one thread, sent", count, seconds);
}

static void open_device(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) exit(puts("no libcuda.so.1"));
#define FIND(name, symbol) *(void **)&name = dlsym(library, symbol)
    FIND(cuInit, "cuInit"), FIND(cuCtxRetain, "cuDevicePrimaryCtxRetain"), FIND(cuCtxSet, "cuCtxSetCurrent");
    FIND(cuAlloc, "cuMemAlloc_v2"), FIND(cuFree, "cuMemFree_v2"), FIND(cuHostAlloc, "cuMemHostAlloc");
    FIND(cuCopyIn, "cuMemcpyHtoDAsync_v2"), FIND(cuStream, "cuStreamCreateWithPriority");
    FIND(cuSync, "cuStreamSynchronize"), FIND(cuEventCreate, "cuEventCreate");
    FIND(cuEventRecord, "cuEventRecord"), FIND(cuEventQuery, "cuEventQuery");
    handle context;
    cuInit(0), cuCtxRetain(&context, 0), cuCtxSet(context), cuStream(&stream, 1, 0);
    for (int it = 0; it < RING; it++) cuEventCreate(&event[it], 2);
    double begin = now();
    cuHostAlloc((void **)&pinned, PINNED_BYTES, 0);
    printf("pinning 256 MiB: %.3f s\n", now() - begin);
    cuAlloc(&device, (1u << 30) + (64 << 20));
    memset(pinned, 1, PINNED_BYTES);
}

int main(int count, char **words) {
    if (count != 2) exit(puts("usage: road FILE"));
    struct stat about;
    fd = open(words[1], O_RDONLY), fstat(fd, &about), file_bytes = about.st_size;
    open_device();
    for (size_t size = 1 << 12; size <= 1 << 28; size *= 16) {
        dptr block[32];
        double begin = now();
        for (int it = 0; it < 32; it++) cuAlloc(&block[it], size);
        double middle = now();
        for (int it = 0; it < 32; it++) cuFree(block[it]);
        printf("a block of %zu KiB: %.0f us, freed in %.0f us\n", size >> 10, (middle - begin) / 32e-6, (now() - middle) / 32e-6);
    }
    for (size_t size = 64 << 10; size <= 64 << 20; size *= 4) {
        double begin = now();
        for (size_t at = 0; at < (4ull << 30); at += size) cuCopyIn(device + at % (1u << 30), pinned + at % PINNED_BYTES, size, stream);
        cuSync(stream);
        printf("the bus in pieces of %zu KiB: %.1f GB/s\n", size >> 10, 4.295 / (now() - begin));
    }
    chunk = 4 << 20;
    for (int threads = 1; threads <= 16; threads *= 4) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        reading("read from the disk", threads);
    }
    for (int it = 0; it < SLOTS; it++) slot[it] = aligned_alloc(4096, chunk), memset(slot[it], 1, chunk);
    for (chunk = 1 << 20; chunk <= 4 << 20; chunk *= 4)
        for (int threads = 1; threads <= 16; threads *= 2) {
            into_pinned = 0, reading("read from the page cache", threads);
            into_pinned = 1, reading("read into pinned memory", threads);
            pipeline(threads);
        }
    return 0;
}
