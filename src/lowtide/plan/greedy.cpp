// Greedy placement, compiled: the scan of plan/greedy.py over sorted blocks, and for best fit in order of birth
// a way to the same places in n log n. Plain C interface, no Python.h; search.cpp is compiled after it, in one
// piece with it. Tests compare both with the twin in Python.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <utility>
#include <vector>

namespace {

using i64 = std::int64_t;

double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

i64 align_up(i64 x, i64 a) { return (x + a - 1) / a * a; }

}  // namespace

extern "C" {

// plan.flat.Flat
struct Flat {
    std::int64_t count;
    const std::int64_t *size, *alignment, *fixed, *segment_of, *first, *end, *low, *high, *excluded_of, *excluded;
};

}  // extern "C"

namespace {

// ---- greedy -----------------------------------------------------------------------------------------------------

constexpr int kBlock = 256;

struct Block {  // placed segments, ascending by lowest byte
    int used = 0;
    std::int32_t first[kBlock], end[kBlock];
    i64 bottom[kBlock], top[kBlock];
    std::int32_t owner[kBlock];
};

// All placed segments in ascending (bottom, top, first, end, owner), in blocks so that an insertion moves little.
class Shelf {
  public:
    void clear() {
        spare_.insert(spare_.end(), std::make_move_iterator(blocks_.begin()), std::make_move_iterator(blocks_.end()));
        blocks_.clear();
    }

    // Calls see(bottom, top, owner) for everything that overlaps [first, end) in time, ascending; stops on true.
    template <class See>
    void overlapping(std::int32_t first, std::int32_t end, See see) const {
        for (const auto &b : blocks_) {
            const int used = b->used;
            std::uint8_t hit[kBlock];
            for (int i = 0; i < kBlock; ++i) hit[i] = (b->first[i] < end) & (first < b->end[i]);
            for (int base = 0; base < used; base += 8) {
                std::uint64_t word;
                std::memcpy(&word, hit + base, 8);
                while (word) {
                    const int i = base + (__builtin_ctzll(word) >> 3);
                    word &= word - 1;
                    if (i < used && see(b->bottom[i], b->top[i], b->owner[i])) return;
                }
            }
        }
    }

    void insert(i64 bottom, i64 top, std::int32_t first, std::int32_t end, std::int32_t owner) {
        if (blocks_.empty()) blocks_.push_back(fresh());
        std::size_t at = std::upper_bound(blocks_.begin() + 1, blocks_.end(), bottom,
                                          [](i64 x, const std::unique_ptr<Block> &b) { return x < b->bottom[0]; }) -
                         blocks_.begin() - 1;
        if (blocks_[at]->used == kBlock) {
            split(at);
            if (blocks_[at + 1]->bottom[0] <= bottom) ++at;
        }
        Block &b = *blocks_[at];
        const int i = std::upper_bound(b.bottom, b.bottom + b.used, bottom) - b.bottom;
        auto open = [&](auto *row) { std::memmove(row + i + 1, row + i, (b.used - i) * sizeof(*row)); };
        open(b.bottom), open(b.top), open(b.first), open(b.end), open(b.owner);
        ++b.used;
        b.bottom[i] = bottom, b.top[i] = top, b.first[i] = first, b.end[i] = end, b.owner[i] = owner;
    }

  private:
    std::vector<std::unique_ptr<Block>> blocks_, spare_;

    std::unique_ptr<Block> fresh() {
        std::unique_ptr<Block> b;
        if (spare_.empty()) {
            b = std::make_unique<Block>();
        } else {
            b = std::move(spare_.back());
            spare_.pop_back();
        }
        b->used = 0;
        return b;
    }

    void split(std::size_t at) {
        auto upper = fresh();
        Block &lower = *blocks_[at];
        const int half = kBlock / 2;
        auto part = [&](const auto *from, auto *to) { std::copy(from + half, from + kBlock, to); };
        part(lower.bottom, upper->bottom), part(lower.top, upper->top), part(lower.first, upper->first);
        part(lower.end, upper->end), part(lower.owner, upper->owner);
        upper->used = kBlock - half;
        lower.used = half;
        blocks_.insert(blocks_.begin() + at + 1, std::move(upper));
    }
};

struct Holes {  // walks barred intervals in ascending order and finds the lowest or the tightest hole
    i64 alignment, at = 0, tightest = -1, found = 0;
    bool best, done = false;

    bool bar(i64 lo, i64 hi) {
        if (at <= lo) {
            if (!best) return done = true;
            if (tightest < 0 || lo - at < tightest) tightest = lo - at, found = at;
        }
        if (hi > at) at = align_up(hi, alignment);
        return false;
    }
    i64 answer() const { return best && tightest >= 0 ? found : at; }
};

class Greedy {
  public:
    explicit Greedy(const Flat &flat) : flat_(flat) {}

    // Returns -1, or the buffer whose fixed place is taken.
    i64 place(const i64 *order, i64 many, bool best, i64 *offsets) {
        shelf_.clear();
        for (int pass = 0; pass < 2; ++pass)
            for (i64 k = 0; k < many; ++k) {
                const i64 i = order[k];
                if ((flat_.fixed[i] >= 0) != (pass == 0)) continue;
                if (!put(i, best, offsets)) return i;
            }
        return -1;
    }

  private:
    const Flat &flat_;
    Shelf shelf_;
    std::vector<std::pair<i64, i64>> barred_;

    bool put(i64 i, bool best, i64 *offsets) {
        const i64 a = flat_.segment_of[i], b = flat_.segment_of[i + 1];
        const bool fixed = flat_.fixed[i] >= 0;
        if (a == b) {
            offsets[i] = fixed ? flat_.fixed[i] : 0;
            return true;
        }
        const i64 *friends = flat_.excluded + flat_.excluded_of[i], *last = flat_.excluded + flat_.excluded_of[i + 1];
        Holes holes{flat_.alignment[i], 0, -1, 0, best};
        bool taken = false;
        auto bar = [&](i64 lo, i64 hi) {
            if (fixed) return taken = lo < flat_.fixed[i] && flat_.fixed[i] < hi;
            return holes.bar(lo, hi);
        };
        if (b - a == 1 && friends == last) {
            const i64 low = flat_.low[a], high = flat_.high[a];
            shelf_.overlapping(flat_.first[a], flat_.end[a],
                               [&](i64 bottom, i64 top, std::int32_t) { return bar(bottom - high, top - low); });
        } else {
            barred_.clear();
            for (i64 s = a; s < b; ++s)
                shelf_.overlapping(flat_.first[s], flat_.end[s], [&](i64 bottom, i64 top, std::int32_t owner) {
                    if (!std::binary_search(friends, last, owner))
                        barred_.emplace_back(bottom - flat_.high[s], top - flat_.low[s]);
                    return false;
                });
            std::sort(barred_.begin(), barred_.end());
            for (auto [lo, hi] : barred_)
                if (bar(lo, hi)) break;
        }
        if (taken) return false;
        const i64 at = offsets[i] = fixed ? flat_.fixed[i] : holes.answer();
        for (i64 s = a; s < b; ++s)
            shelf_.insert(at + flat_.low[s], at + flat_.high[s], flat_.first[s], flat_.end[s], i);
        return true;
    }
};

// Best fit in the order of birth: an allocator at run time, whose free bytes are kept by width (n log n). The same
// places as a scan. Only for one interval per buffer, one alignment, nothing fixed, no windows, no exclusions.
class Births {
  public:
    static bool serves(const Flat &flat, const i64 *order, i64 many) {
        if (flat.excluded_of[flat.count] != 0) return false;
        i64 before = 0;
        for (i64 k = 0; k < many; ++k) {
            const i64 i = order[k], s = flat.segment_of[i];
            if (flat.segment_of[i + 1] - s != 1 || flat.fixed[i] >= 0 || flat.alignment[i] != flat.alignment[order[0]] ||
                flat.low[s] != 0 || flat.high[s] <= 0 || flat.first[s] < before)
                return false;
            before = flat.first[s];
        }
        return many > 0;
    }

    static void place(const Flat &flat, const i64 *order, i64 many, i64 *offsets) {
        Births run;
        std::priority_queue<std::pair<i64, i64>, std::vector<std::pair<i64, i64>>, std::greater<>> deaths;
        const i64 grain = flat.alignment[order[0]];
        for (i64 k = 0; k < many; ++k) {
            const i64 i = order[k], s = flat.segment_of[i], size = flat.size[i];
            while (!deaths.empty() && deaths.top().first <= flat.first[s]) {
                const i64 dead = deaths.top().second;
                deaths.pop();
                run.release(offsets[dead], offsets[dead] + align_up(flat.size[dead], grain));
            }
            offsets[i] = run.take(size, align_up(size, grain));
            deaths.emplace(flat.end[s], i);
        }
    }

  private:
    std::map<i64, i64> by_start_;              // start -> end of what is free below the top
    std::set<std::pair<i64, i64>> by_width_;   // (width, start)
    i64 top_ = 0;

    i64 take(i64 size, i64 padded) {
        const auto hole = by_width_.lower_bound({size, 0});
        if (hole == by_width_.end()) {
            const i64 at = top_;
            top_ += padded;
            return at;
        }
        const auto [width, at] = *hole;
        by_width_.erase(hole);
        by_start_.erase(at);
        if (width > padded) open(at + padded, at + width);
        return at;
    }

    void open(i64 lo, i64 hi) { by_start_[lo] = hi, by_width_.insert({hi - lo, lo}); }

    void release(i64 lo, i64 hi) {
        auto next = by_start_.lower_bound(lo);
        if (next != by_start_.end() && next->first == hi) {
            hi = next->second;
            by_width_.erase({next->second - next->first, next->first});
            next = by_start_.erase(next);
        }
        if (next != by_start_.begin()) {
            const auto before = std::prev(next);
            if (before->second == lo) {
                lo = before->first;
                by_width_.erase({before->second - before->first, before->first});
                by_start_.erase(before);
            }
        }
        if (hi == top_) top_ = lo;
        else open(lo, hi);
    }
};

}  // namespace

extern "C" {

// -1, or the buffer whose fixed place is taken. `best`: in the tightest hole, not the lowest. `scan`: never take the short
// way that some orders allow.
std::int64_t lowtide_place(const Flat *flat, const std::int64_t *order, std::int64_t many, int best, int scan,
                           std::int64_t *offsets) {
    if (best && !scan && Births::serves(*flat, order, many)) {
        Births::place(*flat, order, many, offsets);
        return -1;
    }
    return Greedy(*flat).place(order, many, best != 0, offsets);
}

}  // extern "C"
