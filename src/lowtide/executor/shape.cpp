// Points many tensor headers over the slabs of their devices at once, and touches none of the bytes there. Links against
// libc10 alone; no Python header is needed.
//
// A `Shared` belongs to one frame (`starts`: per buffer, where in the slab the frame's bytes begin); its `Places` say where
// buffers lie and what is known of their sizes; a `Segment` says how the layouts of some headers follow from the numbers that
// became known. `limit`: sizes that were learned already. Headers that do not fit their place are left alone and reported by
// index. No header is ever given an element outside its storage: that is checked here, whatever went wrong before, because
// nobody checks it after.
#include <c10/core/TensorImpl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

struct Places {
  const int64_t *offsets, *capacity, *limit;
};

struct Shared {
  const Places* places;
  int64_t buffers;
  const int64_t* starts;
  int64_t *sizes, *high, *escaped;
};

struct Segment {
  Shared* shared;
  int64_t* values;
  const int64_t* code;
  int64_t count_code, first_result;
  const int64_t *rows, *starts, *wheres;
  int64_t count_rows;
  int64_t* layouts;
  int64_t count;
  const int64_t *headers, *where, *rank, *buffer, *itemsize;
};
static_assert(sizeof(void*) == sizeof(int64_t));

const int64_t kWrong = -1, kOver = int64_t{1} << 32;

inline int64_t floor_div(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}

inline int64_t power(int64_t a, int64_t b) {
  int64_t out = 1;
  for (; b > 0; --b) out *= a;
  return out;
}

inline int64_t apply(int64_t op, int64_t a, int64_t b) {
  switch (op) {
    case 0: return a + b;
    case 1: return a * b;
    case 2: return b == 0 ? 0 : floor_div(a, b);
    case 3: return b == 0 ? 0 : a - floor_div(a, b) * b;
    case 4: return std::max(a, b);
    case 5: return std::min(a, b);
    case 6: return b == 0 ? 0 : -floor_div(-a, b);
    default: return power(a, b);
  }
}

// Bytes from the start of a storage to the end of its furthest element; 0 without elements.
inline int64_t extent(const int64_t* row, const int64_t* v) {
  const int64_t rank = row[0];
  int64_t whole = v[row[1]] + 1;
  for (int64_t d = 0; d < rank; ++d) {
    const int64_t n = v[row[2 + d]];
    if (n == 0) return 0;
    whole += (n - 1) * v[row[2 + rank + d]];
  }
  return whole * row[2 + 2 * rank];
}

// Whether every element of a layout lies in the first `whole` bytes of what it stands on. False where a number is negative, or
// is too large for its type (as the number of all elements may be).
inline bool within(const int64_t* layout, int64_t rank, int64_t itemsize, int64_t whole) {
  const int64_t *size = layout + 2, *stride = size + rank;
  int64_t last = layout[1], step = 0, nbytes = 0, count = 1;
  bool wrong = last < 0, none = false;
  for (int64_t d = 0; d < rank; ++d) {
    wrong |= size[d] < 0 || stride[d] < 0;
    none |= size[d] == 0;
    wrong |= __builtin_mul_overflow(count, size[d], &count);
    wrong |= __builtin_mul_overflow(size[d] - 1, stride[d], &step) || __builtin_add_overflow(last, step, &last);
  }
  if (wrong || none) return !wrong;
  wrong = __builtin_add_overflow(last, int64_t{1}, &last) || __builtin_mul_overflow(last, itemsize, &nbytes);
  return !wrong && nbytes <= whole;
}

void lay_out(const Segment& s) {
  int64_t* v = s.values;
  for (int64_t i = 0; i < s.count_code; ++i)
    v[s.first_result + i] = apply(s.code[3 * i], v[s.code[3 * i + 1]], v[s.code[3 * i + 2]]);
  for (int64_t i = 0; i < s.count_rows; ++i) {
    const int64_t* row = s.rows + s.starts[i];
    int64_t* out = s.layouts + s.wheres[i];
    *out++ = extent(row, v);
    row += 3 + 2 * row[0];
    for (int64_t d = 0; d < 1 + 2 * row[0]; ++d) *out++ = v[row[1 + d]];
  }
}

int64_t shape(Segment* segment, const Places* anew) {
  const Segment& s = *segment;
  Shared& all = *s.shared;
  if (anew != nullptr) {
    all.places = anew;
    std::memset(all.sizes, 0, static_cast<size_t>(all.buffers) * sizeof(int64_t));
    std::memset(all.high, 0, static_cast<size_t>(all.buffers) * sizeof(int64_t));
  }
  lay_out(s);
  const Places& at = *all.places;
  int64_t found = 0, over = 0;
  for (int64_t i = 0; i < s.count; ++i) {
    const int64_t* layout = s.layouts + s.where[i];
    const int64_t b = s.buffer[i], nbytes = layout[0], begin = all.starts[b] + at.offsets[b];
    if (!within(layout, s.rank[i], s.itemsize[i], nbytes)) return kWrong;
    all.sizes[b] = nbytes;
    if (nbytes > all.high[b]) all.high[b] = nbytes;
    if (nbytes > at.limit[b]) over = kOver;
    if (nbytes > at.capacity[b]) {
      all.escaped[found++] = i;
      continue;
    }
    auto* header = reinterpret_cast<c10::TensorImpl*>(s.headers[i]);
    if (nbytes > 0 && begin + nbytes > static_cast<int64_t>(header->unsafe_storage().nbytes())) return kWrong;
    const auto n = static_cast<size_t>(s.rank[i]);
    header->set_sizes_and_strides(c10::IntArrayRef(layout + 2, n), c10::IntArrayRef(layout + 2 + n, n),
                                  begin / s.itemsize[i] + layout[1]);
  }
  return found + over;
}

}  // namespace

// Shapes the headers of a segment and returns how many do not fit, and 2^32 more where a size is above the limit; -1 where a
// header would reach beyond its bytes. `anew`, if not null: a run begins in these places, and nothing is known of its sizes yet.
extern "C" int64_t lowtide_shape(Segment* segment, const Places* anew) noexcept {
  try {
    return shape(segment, anew);
  } catch (...) {  // c10 refuses, and C code is between us and the caller
    return kWrong;
  }
}
