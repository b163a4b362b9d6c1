/* Counts the bytes that a process has on its heap. Preloaded, it takes the place of the C library's allocator entry
 * points and passes each call on to the C library under its internal name, so no lookup at start is needed (glibc only).
 * A block counts with its usable size from when it is handed out until it is freed; mappings made directly are not seen.
 *
 *   long lowtide_heap_live(void)      bytes alive now
 *   long lowtide_heap_peak(void)      most bytes alive since the last mark
 *   long lowtide_heap_blocks(void)    blocks handed out since the last mark
 *   void lowtide_heap_mark(void)      begin again: the peak is what is alive now
 *
 * Valid as C and as C++. */
#include <errno.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);
size_t malloc_usable_size(void *);

static long live_now, most, handed_out;

static void more(long nbytes) {
  long now = __atomic_add_fetch(&live_now, nbytes, __ATOMIC_RELAXED);
  long seen = __atomic_load_n(&most, __ATOMIC_RELAXED);
  while (now > seen && !__atomic_compare_exchange_n(&most, &seen, now, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  __atomic_add_fetch(&handed_out, 1, __ATOMIC_RELAXED);
}

static void less(long nbytes) { __atomic_sub_fetch(&live_now, nbytes, __ATOMIC_RELAXED); }

static void *counted(void *block) {
  if (block) more((long)malloc_usable_size(block));
  return block;
}

void *malloc(size_t nbytes) { return counted(__libc_malloc(nbytes)); }

void *calloc(size_t count, size_t nbytes) { return counted(__libc_calloc(count, nbytes)); }

void free(void *block) {
  if (!block) return;
  less((long)malloc_usable_size(block));
  __libc_free(block);
}

/* While glibc moves a block both copies exist; it grows large ones by remapping, so only the larger one is counted. */
void *realloc(void *block, size_t nbytes) {
  long before = block ? (long)malloc_usable_size(block) : 0;
  void *moved = __libc_realloc(block, nbytes);
  if (moved) {
    less(before);
    counted(moved);
  } else if (block && !nbytes) {
    less(before);
  }
  return moved;
}

void *reallocarray(void *block, size_t count, size_t nbytes) {
  size_t total;
  if (__builtin_mul_overflow(count, nbytes, &total)) {
    errno = ENOMEM;
    return NULL;
  }
  return realloc(block, total);
}

void *memalign(size_t alignment, size_t nbytes) { return counted(__libc_memalign(alignment, nbytes)); }

void *aligned_alloc(size_t alignment, size_t nbytes) { return memalign(alignment, nbytes); }

int posix_memalign(void **out, size_t alignment, size_t nbytes) {
  void *block;
  if (alignment % sizeof(void *) || !alignment || (alignment & (alignment - 1))) return EINVAL;
  block = memalign(alignment, nbytes);
  if (!block) return ENOMEM;
  *out = block;
  return 0;
}

void *valloc(size_t nbytes) { return memalign(4096, nbytes); }

void *pvalloc(size_t nbytes) { return memalign(4096, (nbytes + 4095) / 4096 * 4096); }

long lowtide_heap_live(void) { return __atomic_load_n(&live_now, __ATOMIC_RELAXED); }

long lowtide_heap_peak(void) { return __atomic_load_n(&most, __ATOMIC_RELAXED); }

long lowtide_heap_blocks(void) { return __atomic_load_n(&handed_out, __ATOMIC_RELAXED); }

void lowtide_heap_mark(void) {
  __atomic_store_n(&most, __atomic_load_n(&live_now, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
  __atomic_store_n(&handed_out, 0, __ATOMIC_RELAXED);
}

#ifdef __cplusplus
}
#endif
