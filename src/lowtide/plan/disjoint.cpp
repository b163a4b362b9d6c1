// Whether any two rows of bytes that live at once meet: the compiled twin of disjoint.Sweep, and no part of the packers' library.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

struct Row {
    std::int64_t low, high, index;
};

bool before(const Row &row, std::int64_t low) { return row.low < low; }

}  // namespace

extern "C" {

// `events` in order of time: i where row i begins, ~i where it ends. Row i holds `room[i]` bytes from `low[i]` on. Returns 1 and
// writes the row that was there and the one that came, where two share bytes; the same row twice, where it is not within
// `nbytes`. Else returns 0.
int lowtide_fault(std::int64_t count, const std::int64_t *events, const std::int64_t *low, const std::int64_t *room,
                  std::int64_t nbytes, std::int64_t *found) {
    std::vector<Row> alive;  // by offset; apart, so that a new row can only meet its two neighbours
    for (std::int64_t k = 0; k < count; ++k) {
        const bool ends = events[k] < 0;
        const std::int64_t i = ends ? ~events[k] : events[k];
        if (room[i] <= 0) continue;
        const std::int64_t high = low[i] + room[i];
        const auto at = std::lower_bound(alive.begin(), alive.end(), low[i], before);
        if (ends) {
            alive.erase(at);
            continue;
        }
        if (low[i] < 0 || high > nbytes) {
            found[0] = found[1] = i;
            return 1;
        }
        const bool below = at != alive.begin() && std::prev(at)->high > low[i];
        if (below || (at != alive.end() && at->low < high)) {
            found[0] = below ? std::prev(at)->index : at->index;
            found[1] = i;
            return 1;
        }
        alive.insert(at, {low[i], high, i});
    }
    return 0;
}

}  // extern "C"
