// Points many tensor headers over one slab at once. Links against libc10 alone; no Python header is needed.
//
// layouts: per distinct layout of the segment: bytes of the storage, element offset, sizes, strides. For header i:
// where[i] is the start of its layout in that array, rank[i] its rank, buffer[i] the buffer under it, itemsize[i] its bytes
// per element. offsets, capacity: of the buffers in the slab, which begins `start` bytes into the storage. sizes, high: of
// the buffers, updated. Headers that do not fit are left alone and reported by index in `escaped`; returns how many.
#include <c10/core/TensorImpl.h>

#include <cstdint>

extern "C" int64_t lowtide_shape(int64_t count, const int64_t* headers, const int64_t* layouts, const int64_t* where,
                                 const int64_t* rank, const int64_t* buffer, const int64_t* itemsize,
                                 const int64_t* offsets, const int64_t* capacity, int64_t start, int64_t* sizes,
                                 int64_t* high, int64_t* escaped) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* layout = layouts + where[i];
    const int64_t b = buffer[i], nbytes = layout[0];
    sizes[b] = nbytes;
    if (nbytes > high[b]) high[b] = nbytes;
    if (nbytes > capacity[b]) {
      escaped[found++] = i;
      continue;
    }
    auto* header = reinterpret_cast<c10::TensorImpl*>(headers[i]);
    const auto n = static_cast<size_t>(rank[i]);
    header->set_sizes_and_strides(c10::IntArrayRef(layout + 2, n), c10::IntArrayRef(layout + 2 + n, n),
                                  (start + offsets[b]) / itemsize[i] + layout[1]);
  }
  return found;
}
