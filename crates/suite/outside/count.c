/* Counts what a program asks of the CUDA driver, NVRTC and cuBLASLt, as seen from outside of it.

   Built as a shared object and preloaded. It stands between the program and `dlsym` (and the
   driver's own `cuGetProcAddress`), so that whoever looks up one of the functions below gets one
   that counts and goes on to the real one. The program says what part of it is sealed by two lines
   on its standard output, `calor: sealed` and `calor: ended`. When it ends, a line for each function is
   written to the file that CALOR_OUTSIDE_REPORT names:

       <what> <function> <calls while sealed> <calls in all>

   For x86-64 and the GNU C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef long (*call)(long, long, long, long, long, long, long, long, long, long);

static atomic_int is_sealed;

/* A function may be known at two addresses: one by its name and one from the driver. */
enum { PLACES = 2 };

struct row {
    const char *what;
    const char *name;
    _Atomic(call) real[PLACES];
    call counting[PLACES];
    atomic_ulong sealed_count;
    atomic_ulong count;
};

static long pass(struct row *row, int place, const long *a) {
    atomic_fetch_add(&row->count, 1);
    if (atomic_load(&is_sealed)) atomic_fetch_add(&row->sealed_count, 1);
    call real = atomic_load(&row->real[place]);
    return real(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
}

/* Every function takes integers and pointers only. One that takes fewer than ten does not look at
   the rest: in this calling convention the caller takes them away again. */
#define PLACE(name, place)                                                                        \
    static long name##_##place(long a, long b, long c, long d, long e, long f, long g, long h,     \
                               long i, long j) {                                                   \
        const long all[] = {a, b, c, d, e, f, g, h, i, j};                                         \
        return pass(&row_##name, place, all);                                                      \
    }
#define FUNCTION(what, name)                                                                       \
    static struct row row_##name;                                                                  \
    PLACE(name, 0)                                                                                 \
    PLACE(name, 1)                                                                                 \
    static struct row row_##name = {what, #name, {0}, {name##_0, name##_1}, 0, 0};

#define FUNCTIONS(_)                                                                               \
    _("compile", nvrtcCompileProgram)                                                              \
    _("compile", cuLinkCreate)                                                                     \
    _("compile", cuLinkComplete)                                                                   \
    _("load", cuModuleLoad)                                                                        \
    _("load", cuModuleLoadData)                                                                    \
    _("load", cuModuleLoadDataEx)                                                                  \
    _("load", cuModuleLoadFatBinary)                                                               \
    _("load", cuLibraryLoadData)                                                                   \
    _("load", cuLibraryLoadFromFile)                                                               \
    _("allocate", cuMemAlloc)                                                                      \
    _("allocate", cuMemAllocPitch)                                                                 \
    _("allocate", cuMemAllocManaged)                                                               \
    _("allocate", cuMemAllocAsync)                                                                 \
    _("allocate", cuMemAllocFromPoolAsync)                                                         \
    _("allocate", cuMemCreate)                                                                     \
    _("allocate", cuMemHostAlloc)                                                                  \
    _("allocate", cuMemAllocHost)                                                                  \
    _("allocate", cuMemHostRegister)                                                               \
    _("instantiate", cuGraphInstantiate)                                                           \
    _("instantiate", cuGraphInstantiateWithFlags)                                                  \
    _("instantiate", cuGraphInstantiateWithParams)                                                 \
    _("heuristic", cublasLtMatmulAlgoGetHeuristic)

FUNCTIONS(FUNCTION)

#define ROW(what, name) &row_##name,
static struct row *const rows[] = {FUNCTIONS(ROW)};
enum { ROWS = sizeof rows / sizeof rows[0] };

/* The driver's names have versions, such as `cuMemAlloc_v2`. */
static int is_name(const char *asked, const char *name) {
    size_t len = strlen(name);
    if (strncmp(asked, name, len) != 0) return 0;
    return asked[len] == 0 || strncmp(asked + len, "_v", 2) == 0 ||
           strcmp(asked + len, "_ptsz") == 0;
}

/* The counting function in place of `found`. */
static void *watched(const char *asked, void *found) {
    for (int at = 0; at < ROWS; ++at) {
        if (!is_name(asked, rows[at]->name)) continue;
        for (int place = 0; place < PLACES; ++place) {
            if (found == (void *)rows[at]->counting[place]) return found;
            call none = NULL;
            if (atomic_compare_exchange_strong(&rows[at]->real[place], &none, (call)found) ||
                none == (call)found)
                return (void *)rows[at]->counting[place];
        }
        fprintf(stderr, "count.c: a third address of %s is not watched\n", asked);
        abort();
    }
    return found;
}

typedef int (*get_address)(const char *, void **, int, unsigned long, void *);
static _Atomic(get_address) real_get_address[2];

static int get_address_0(const char *name, void **out, int version, unsigned long flags, void *s) {
    int status = atomic_load(&real_get_address[0])(name, out, version, flags, s);
    if (status == 0 && out != NULL && *out != NULL) *out = watched(name, *out);
    return status;
}

/* The second form, which also says how the search went. */
static int get_address_1(const char *name, void **out, int version, unsigned long flags, void *s);

static void *watched_or_finder(const char *asked, void *found) {
    if (strcmp(asked, "cuGetProcAddress") == 0) {
        atomic_store(&real_get_address[0], (get_address)found);
        return (void *)get_address_0;
    }
    if (strcmp(asked, "cuGetProcAddress_v2") == 0) {
        atomic_store(&real_get_address[1], (get_address)found);
        return (void *)get_address_1;
    }
    return watched(asked, found);
}

static int get_address_1(const char *name, void **out, int version, unsigned long flags, void *s) {
    int status = atomic_load(&real_get_address[1])(name, out, version, flags, s);
    if (status != 0 || out == NULL || *out == NULL) return status;
    /* Who asks for the finder itself gets the form that its version has. */
    const char *finder = version < 12000 ? "cuGetProcAddress" : "cuGetProcAddress_v2";
    *out = watched_or_finder(strcmp(name, "cuGetProcAddress") == 0 ? finder : name, *out);
    return status;
}

typedef void *(*symbol)(void *, const char *);

static symbol real_dlsym(void) {
    static _Atomic(symbol) found;
    symbol it = atomic_load(&found);
    if (it != NULL) return it;
    it = (symbol)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    if (it == NULL) it = (symbol)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    if (it == NULL) abort();
    atomic_store(&found, it);
    return it;
}

__attribute__((visibility("default"))) void *dlsym(void *handle, const char *name) {
    /* What these two mean depends on who calls: the jump leaves the caller as it is. */
    if (handle == RTLD_NEXT || handle == RTLD_DEFAULT) return real_dlsym()(handle, name);
    void *found = real_dlsym()(handle, name);
    return found == NULL ? NULL : watched_or_finder(name, found);
}

typedef ssize_t (*writer)(int, const void *, size_t);

__attribute__((visibility("default"))) ssize_t write(int file, const void *bytes, size_t len) {
    static _Atomic(writer) real;
    if (atomic_load(&real) == NULL) {
        atomic_store(&real, (writer)real_dlsym()(RTLD_NEXT, "write"));
    }
    if (file == 1) {
        if (memmem(bytes, len, "calor: ended\n", 13) != NULL) atomic_store(&is_sealed, 0);
        if (memmem(bytes, len, "calor: sealed\n", 14) != NULL) atomic_store(&is_sealed, 1);
    }
    return atomic_load(&real)(file, bytes, len);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("CALOR_OUTSIDE_REPORT");
    FILE *out = path == NULL ? NULL : fopen(path, "w");
    if (out == NULL) return;
    for (int at = 0; at < ROWS; ++at) {
        fprintf(out, "%s %s %lu %lu\n", rows[at]->what, rows[at]->name,
                atomic_load(&rows[at]->sealed_count), atomic_load(&rows[at]->count));
    }
    fclose(out);
}
