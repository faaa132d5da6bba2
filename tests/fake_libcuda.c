/* A libcuda.so.1 for machines without a GPU: one device whose memory is the host's.

   Work in a stream is done when somebody waits for it and no sooner, so that a missing wait shows
   as a wrong result. Calls without a context, copies to or from memory that isn't the device's,
   and releases of what isn't there are errors, as they are on a GPU. FAKE_CUDA=none: no GPU,
   FAKE_CUDA=integrated: shares its memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_INVALIDATED = 901 };
enum { UPLOAD = 1, DOWNLOAD, MARK };
#define MOST 4096

typedef struct { int kind; void *target; const void *source; size_t n; } Op;
typedef struct Queue { Op ops[MOST]; int done, count, spoilt; struct Queue *capture; } Queue;
typedef struct { Queue *stream; int position; } Event;
typedef struct { char *start; size_t n; int on_host; } Block;

static __thread int depth;
static Block blocks[MOST];
static int live;

static Block *block_at(const void *p, size_t n) {
    for (int i = 0; i < MOST; i++)
        if (blocks[i].start && (char *)p >= blocks[i].start
            && (char *)p + n <= blocks[i].start + blocks[i].n)
            return &blocks[i];
    return NULL;
}
static int take(void **p, size_t n, int on_host) {
    if (!depth) return INVALID_CONTEXT;
    if (!n) return INVALID_VALUE;
    if (n > (size_t)1 << 40) return OUT_OF_MEMORY;
    for (int i = 0; i < MOST; i++)
        if (!blocks[i].start) {
            blocks[i] = (Block){malloc(n), n, on_host};
            memset(blocks[i].start, 0xCD, n);
            *p = blocks[i].start;
            live++;
            return OK;
        }
    return OUT_OF_MEMORY;
}
static int release(void *p, int on_host) {
    Block *b = block_at(p, 1);
    if (!depth) return INVALID_CONTEXT;
    if (!b || b->start != p || b->on_host != on_host) return INVALID_VALUE;
    memset(b->start, 0xDD, b->n);
    free(b->start);
    b->start = NULL;
    live--;
    return OK;
}
static void run(Queue *q, int until) {
    for (; q->done < until; q->done++) {
        Op *op = &q->ops[q->done];
        if (op->kind != MARK) memcpy(op->target, op->source, op->n);
    }
    if (q->done == q->count) q->done = q->count = 0;
}
static int put(Queue *q, Op op) {
    if (!depth) return INVALID_CONTEXT;
    if (!q) return INVALID_HANDLE;
    if (q->capture) q = q->capture;
    if (q->count == MOST) return OUT_OF_MEMORY;
    q->ops[q->count++] = op;
    return OK;
}

int fake_live(void) { return live; }
int cuInit(unsigned flags) {
    const char *kind = getenv("FAKE_CUDA");
    return kind && !strcmp(kind, "none") ? NO_DEVICE : OK;
}
int cuDriverGetVersion(int *v) { *v = 13000; return OK; }
int cuDeviceGetCount(int *n) { *n = 1; return OK; }
int cuDeviceGet(int *d, int i) { *d = i; return i ? INVALID_VALUE : OK; }
int cuDeviceGetName(char *name, int n, int d) { snprintf(name, n, "Fake GPU"); return OK; }
int cuDeviceGetAttribute(int *v, int kind, int d) {
    const char *set = getenv("FAKE_CUDA");
    *v = kind == 75 ? 8 : kind == 76 ? 9 : kind == 18 ? set && !strcmp(set, "integrated") : 0;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &live; return OK; }
int cuCtxPushCurrent_v2(void *c) { if (c != &live) return INVALID_CONTEXT; depth++; return OK; }
int cuCtxPopCurrent_v2(void **c) { if (!depth) return INVALID_CONTEXT; depth--; *c = &live; return OK; }
int cuMemAlloc_v2(void **p, size_t n) { return take(p, n, 0); }
int cuMemFree_v2(void *p) { return release(p, 0); }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { return take(p, n, 1 + flags); }
int cuMemFreeHost(void *p) {
    Block *b = block_at(p, 1);
    return b && b->on_host ? release(p, b->on_host) : INVALID_VALUE;
}
int cuMemHostGetDevicePointer_v2(void **to, void *p, unsigned flags) {
    Block *b = block_at(p, 1);
    if (!b || !((b->on_host - 1) & 2)) return INVALID_VALUE; /* not allocated as mapped */
    *to = p;
    return OK;
}
int cuStreamCreate(Queue **q, unsigned flags) {
    if (!depth) return INVALID_CONTEXT;
    *q = calloc(1, sizeof **q);
    live++;
    return OK;
}
int cuStreamDestroy_v2(Queue *q) { free(q); live--; return OK; }
int cuStreamSynchronize(Queue *q) {
    if (!depth) return INVALID_CONTEXT;
    if (q->capture) { q->spoilt = 1; return CAPTURE_INVALIDATED; }
    run(q, q->count);
    return OK;
}
int cuEventCreate(Event **e, unsigned flags) {
    if (!depth) return INVALID_CONTEXT;
    *e = calloc(1, sizeof **e);
    live++;
    return OK;
}
int cuEventDestroy_v2(Event *e) { free(e); live--; return OK; }
int cuEventRecord(Event *e, Queue *q) {
    int status = put(q, (Op){MARK, 0, 0, 0});
    *e = (Event){q, q->count};
    return status;
}
int cuEventSynchronize(Event *e) {
    if (!depth) return INVALID_CONTEXT;
    if (e->stream && e->stream->done < e->position) run(e->stream, e->position);
    return OK;
}
int cuMemcpyHtoDAsync_v2(void *target, const void *source, size_t n, Queue *q) {
    return block_at(target, n) ? put(q, (Op){UPLOAD, target, source, n}) : INVALID_VALUE;
}
int cuMemcpyDtoHAsync_v2(void *target, const void *source, size_t n, Queue *q) {
    return block_at(source, n) ? put(q, (Op){DOWNLOAD, target, source, n}) : INVALID_VALUE;
}
int cuStreamBeginCapture_v2(Queue *q, int mode) {
    if (q->capture) return INVALID_VALUE;
    q->capture = calloc(1, sizeof *q);
    q->spoilt = 0;
    live++;
    return OK;
}
int cuStreamEndCapture(Queue *q, Queue **graph) {
    if (!q->capture) return INVALID_VALUE;
    *graph = q->spoilt ? NULL : q->capture;
    if (q->spoilt) { free(q->capture); live--; }
    q->capture = NULL;
    return q->spoilt ? CAPTURE_INVALIDATED : OK;
}
int cuGraphInstantiateWithFlags(Queue **ready, Queue *graph, unsigned long long flags) {
    *ready = malloc(sizeof **ready);
    memcpy(*ready, graph, sizeof **ready);
    live++;
    return OK;
}
int cuGraphDestroy(Queue *graph) {
    if (!graph) return INVALID_VALUE;
    free(graph);
    live--;
    return OK;
}
int cuGraphExecDestroy(Queue *ready) { free(ready); live--; return OK; }
int cuGraphLaunch(Queue *ready, Queue *q) {
    for (int i = 0; i < ready->count; i++) {
        int status = put(q, ready->ops[i]);
        if (status) return status;
    }
    return OK;
}
int cuGetErrorName(int status, const char **name) { *name = "CUDA_ERROR"; return OK; }
int cuGetProcAddress_v2(const char *name, void **f, int version, uint64_t flags, int *found) {
    static const char *ends[] = {"_v2", "", "WithFlags"};
    char full[128];
    *f = NULL;
    for (int i = 0; i < 3 && !*f; i++) {
        snprintf(full, sizeof full, "%s%s", name, ends[i]);
        *f = dlsym(RTLD_DEFAULT, full);
        if (!*f) { void *me = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD); *f = me ? dlsym(me, full) : NULL; }
    }
    if (found) *found = *f ? 0 : 1;
    return *f ? OK : NOT_FOUND;
}
