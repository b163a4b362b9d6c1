// Sections of a plain problem, descents, and repair in windows of time: driver functions that are too slow in Python where
// milliseconds count. Compiled after greedy.cpp and search.cpp, in one piece with them. Twins in Python: plan/sections.py,
// plan/descent.py, plan/windows.py; tests compare them offset for offset.

#include <array>
#include <map>
#include <numeric>

namespace {

// Rule and ranking: sections.ORDERS.
constexpr const char *kOrders[] = {"0TOL", "1AS", "1FWS", "0HSO", "1THA", "0HLF", "0TWA", "2TS", "3HT"};
constexpr i64 kMostRows = 600, kNodesPerRow = 60, kRounds = 6;  // as in windows.py
constexpr i64 kDescents = 32, kLeftOver = 10, kStuck = 5;  // as in descent.py

i64 gcd_of(i64 a, i64 b) { return std::gcd(a, b); }

// Loops over vectors that make up nearly all of a descent, without branches and over plain pointers, so that they become loops of
// vectors; also in the build that is made quickly.
#pragma GCC push_options
#pragma GCC optimize("O3")

template <class T>
constexpr T kPlaced = std::numeric_limits<T>::max();

// The most in v[from, to), which is not empty.
template <class T>
T most_in(const T *v, i64 from, i64 to) {
    T most = v[from];
    for (i64 k = from + 1; k < to; ++k) most = v[k] > most ? v[k] : most;
    return most;
}

template <class T>
T least_in(const T *v, i64 n) {
    T least = kPlaced<T>;
    for (i64 k = 0; k < n; ++k) least = v[k] < least ? v[k] : least;
    return least;
}

// The first rank among the rows whose least offset is `at`.
template <class T>
T first_at(const T *__restrict least, const T *__restrict rank, i64 n, T at) {
    T first = kPlaced<T>;
    for (i64 k = 0; k < n; ++k) {
        const T mine = least[k] == at ? rank[k] : kPlaced<T>;
        first = mine < first ? mine : first;
    }
    return first;
}

// Per block of so many rows the least of them, where that of the rows [from, to) may have changed.
constexpr i64 kRows = 64;

template <class T>
void renew_least(T *__restrict least_of, const T *__restrict v, i64 from, i64 to, i64 n) {
    for (i64 b = from / kRows; b * kRows < to; ++b) least_of[b] = least_in(v + b * kRows, std::min(kRows, n - b * kRows));
}

template <class T>
void lower(T *v, i64 from, i64 to, T by) {
    for (i64 k = from; k < to; ++k) v[k] -= by;
}

// Of the rows [from, to) that end after `lo`, none lies below `top`.
template <class T>
void lift(T *__restrict least, const T *__restrict ends, i64 from, i64 to, T lo, T top) {
    for (i64 q = from; q < to; ++q) {
        const T lifted = least[q] < top ? top : least[q];
        least[q] = ends[q] > lo ? lifted : least[q];
    }
}

#pragma GCC pop_options

// A problem with one interval per buffer, as vectors; what Flat points to.
struct Rows {
    std::vector<i64> size, alignment, fixed, first, end;

    void add(i64 s, i64 a, i64 place, i64 from, i64 to) {
        size.push_back(s), alignment.push_back(a), fixed.push_back(place), first.push_back(from), end.push_back(to);
    }
    i64 count() const { return size.size(); }

    // Times become ranks.
    void rank() {
        std::vector<i64> times(first);
        times.insert(times.end(), end.begin(), end.end());
        std::sort(times.begin(), times.end());
        times.erase(std::unique(times.begin(), times.end()), times.end());
        for (auto *v : {&first, &end})
            for (auto &t : *v) t = std::lower_bound(times.begin(), times.end(), t) - times.begin();
    }
};

// plan.sections.sections_of, for one interval per buffer.
class Cliques {
  public:
    std::vector<i64> buffers;  // rows of the search -> rows of the problem
    i64 unit = 1;

    Cliques(const Rows &rows, i64 grain, const char *const *names = kOrders, i64 many = std::size(kOrders))
        : grain_(grain), names_(names), many_(many) {
        moments(rows);
        for (i64 i = 0; i < rows.count(); ++i)
            if (rows.fixed[i] < 0 && rows.size[i] > 0) buffers.push_back(i);
        i64 common = 0;
        for (const i64 i : buffers) {
            real_.push_back(rows.size[i]), size_.push_back(align_up(rows.size[i], grain)), lo_.push_back(before_[rows.first[i]]);
            hi_.push_back(before_[rows.end[i]]), alignment_.push_back(rows.alignment[i]);
            common = gcd_of(common, size_.back());
            if (alignment_.back() > 1) common = gcd_of(common, alignment_.back());
        }
        obstacles(rows);
        for (auto *v : {&obstacle_lo_, &obstacle_hi_})
            for (const i64 x : *v) common = gcd_of(common, x);
        unit = std::max<i64>(common, 1);
        orders();
        for (auto *v : {&size_, &alignment_, &obstacle_lo_, &obstacle_hi_})
            for (auto &x : *v) x /= unit;
        for (auto &x : alignment_) x = std::max<i64>(x, 1);
        grain_ = grain > 1 ? std::max(grain, unit) : unit;
        range_of_.resize(buffers.size() + 1);
        std::iota(range_of_.begin(), range_of_.end(), 0);
    }

    // As lowtide_search, for a capacity in bytes; `offsets` (bytes) per row of the search.
    int decide(i64 capacity, i64 budget, double deadline, i64 *nodes, std::vector<i64> &offsets) {
        limit_.clear();
        for (const i64 s : real_) limit_.push_back(capacity >= s ? (capacity - s) / unit : -1);
        offsets.assign(buffers.size(), 0);
        for (i64 order = 0; order < many_; ++order) make(order), find_twins(order);
        const Sections in{(i64)buffers.size(), sections_, many_, size_.data(), alignment_.data(), limit_.data(),
                          range_of_.data(), lo_.data(), hi_.data(), obstacle_of_.data(), obstacle_lo_.data(), obstacle_hi_.data(),
                          rule_.data(), rank_.data(), twin_.data(), align_up(capacity, grain_) / unit};
        const int answer = search_within(in, budget, deadline, nodes, offsets.data());
        for (auto &x : offsets) x *= unit;
        return answer;
    }

    // plan.descent.descend, in the first order, `many` times at most and again only while there is `work` left. True where all end
    // within a capacity in bytes; no obstacles.
    bool descend(i64 capacity, std::vector<i64> &offsets, i64 many, i64 &work) {
        by_birth(), make(0);
        const i64 n = buffers.size();
        std::vector<i64> forward(n), order(n), rank(rank_.begin(), rank_.begin() + n);
        std::iota(order.begin(), order.end(), 0);
        i64 highest = align_up(capacity, grain_) / unit;  // twice this is above any offset of a descent
        for (const i64 a : alignment_) highest = std::max(highest, a);
        for (i64 k = 0; k < many && (k == 0 || work > 0); ++k) {
            const bool small = highest < (i64(1) << 30);
            if (small ? descent<std::int32_t>(rank, capacity, offsets, forward, work)
                      : descent<i64>(rank, capacity, offsets, forward, work))
                return true;
            std::sort(order.begin(), order.end(), [&](i64 a, i64 b) {
                const i64 x = rank_[a] - forward[a], y = rank_[b] - forward[b];
                return x != y ? x < y : rank_[a] < rank_[b];
            });
            for (i64 place = 0; place < n; ++place) rank[order[place]] = place;
        }
        return false;
    }

  private:
    friend class Backtrack;

    i64 grain_;
    const char *const *names_;  // of the orders
    i64 many_, sections_ = 0;
    std::vector<i64> before_;  // per moment, how many sections have their moment before it
    std::vector<i64> real_, size_, alignment_, limit_, range_of_, lo_, hi_, obstacle_of_, obstacle_lo_, obstacle_hi_;
    std::vector<i64> rule_, rank_, twin_;
    // Rows by the section in which they begin, their ends, and where in births_ all lie that meet each.
    std::vector<i64> births_, ends_, meets_from_, meets_to_;
    bool uneven_ = false;  // some alignment is not the unit

    // One descent; if it fails, what could not be placed goes `forward`, and so does what is left over with it. T holds any
    // offset times two.
    template <class T>
    bool descent(const std::vector<i64> &rank_of, i64 capacity, std::vector<i64> &offsets, std::vector<i64> &forward,
                 i64 &work) const {
        const i64 n = buffers.size();
        const T room = align_up(capacity, grain_) / unit;
        std::vector<T> least(n), rank(n), left(sections_), ends(ends_.begin(), ends_.end()), least_of((n + kRows - 1) / kRows);
        std::vector<i64> row_of(n);
        for (i64 k = 0; k < n; ++k) rank[k] = rank_of[births_[k]], row_of[rank[k]] = k;
        for (i64 s = 0; s < sections_; ++s) left[s] = total_[s] / unit;
        offsets.assign(n, 0);
        const i64 cost = near() / n;
        for (i64 placed = 0; placed < n; ++placed, work -= cost) {
            const T at = least_in(least_of.data(), (i64)least_of.size());
            T first = kPlaced<T>;
            for (i64 b = 0; b * kRows < n; ++b)
                if (const i64 k = b * kRows; least_of[b] == at)
                    first = std::min(first, first_at(least.data() + k, rank.data() + k, std::min(kRows, n - k), at));
            const i64 k = row_of[first], i = births_[k], lo = lo_[i], hi = hi_[i];
            const T size = size_[i], top = at + size, most = most_in(left.data(), lo, hi);
            // What is placed before it from now on would lift it by all that it takes out of the way.
            if (at > room - most || at * unit + real_[i] > capacity) {
                const i64 section = std::find(left.begin() + lo, left.begin() + hi, most) - left.begin();
                for (i64 q = 0; q < n; ++q)
                    if (const i64 j = births_[q]; least[q] != kPlaced<T> && lo_[j] <= section && section < hi_[j])
                        forward[j] += n / kLeftOver;
                forward[i] += n / kStuck;
                return false;
            }
            offsets[i] = at * unit, least[k] = kPlaced<T>;
            lower(left.data(), lo, hi, size);
            lift(least.data(), ends.data(), meets_from_[k], meets_to_[k], (T)lo, top);
            for (i64 q = meets_from_[k]; uneven_ && q < meets_to_[k]; ++q)
                if (least[q] == top) least[q] = align_up(top, alignment_[births_[q]]);
            renew_least(least_of.data(), least.data(), meets_from_[k], meets_to_[k], n);
        }
        return true;
    }

    // How many rows all rows look at where they are placed.
    i64 near() const {
        return std::accumulate(meets_to_.begin(), meets_to_.end(), i64(0)) -
               std::accumulate(meets_from_.begin(), meets_from_.end(), i64(0));
    }

    void by_birth() {
        if (!births_.empty()) return;
        births_.resize(buffers.size());
        std::iota(births_.begin(), births_.end(), 0);
        std::stable_sort(births_.begin(), births_.end(), [&](i64 a, i64 b) { return lo_[a] < lo_[b]; });
        std::vector<i64> begins, latest;  // latest: of the ends so far
        for (const i64 i : births_) {
            begins.push_back(lo_[i]), ends_.push_back(hi_[i]);
            latest.push_back(latest.empty() ? hi_[i] : std::max(latest.back(), hi_[i]));
            uneven_ |= alignment_[i] != 1;
        }
        for (const i64 i : births_) {
            meets_from_.push_back(std::upper_bound(latest.begin(), latest.end(), lo_[i]) - latest.begin());
            meets_to_.push_back(std::lower_bound(begins.begin(), begins.end(), hi_[i]) - begins.begin());
        }
    }

    void moments(const Rows &rows) {
        i64 last = 0;
        for (const i64 t : rows.end) last = std::max(last, t);
        std::vector<std::uint8_t> begins(last + 2), ends(last + 2);
        for (i64 i = 0; i < rows.count(); ++i)
            if (rows.size[i] > 0) begins[rows.first[i]] = 1, ends[rows.end[i]] = 1;
        before_.assign(last + 2, 0);
        bool pending = false;
        for (i64 t = 0; t <= last; ++t) {
            if (pending && ends[t]) ++sections_, pending = false;  // its moment is t - 1
            before_[t] = sections_;
            pending |= begins[t] != 0;
        }
    }

    void obstacles(const Rows &rows) {
        obstacle_of_.push_back(0);
        std::vector<i64> fixed;
        for (i64 i = 0; i < rows.count(); ++i)
            if (rows.fixed[i] >= 0 && rows.size[i] > 0) fixed.push_back(i);
        for (const i64 i : buffers) {
            for (const i64 j : fixed)
                if (rows.first[i] < rows.end[j] && rows.first[j] < rows.end[i])
                    obstacle_lo_.push_back(rows.fixed[j]), obstacle_hi_.push_back(rows.fixed[j] + rows.size[j]);
            obstacle_of_.push_back(obstacle_lo_.size());
        }
    }

    // What orders are made of: bytes per section, the fullest one, begins and ends of the rows, and features by letter.
    std::vector<i64> total_, begins_, ended_, group_;
    i64 hot_ = 0;
    std::map<char, std::vector<i64>> features_;
    std::vector<bool> made_;

    void orders() {
        const i64 n = buffers.size();
        total_.resize(sections_ + 1);
        for (i64 i = 0; i < n; ++i) total_[lo_[i]] += size_[i], total_[hi_[i]] -= size_[i];
        std::partial_sum(total_.begin(), total_.end(), total_.begin());
        total_.resize(std::max<i64>(sections_, 1));
        hot_ = std::max_element(total_.begin(), total_.end()) - total_.begin();
        begins_ = lo_, ended_ = hi_;
        std::sort(begins_.begin(), begins_.end()), std::sort(ended_.begin(), ended_.end());
        made_.resize(many_), rank_.resize(n * many_);
        for (i64 k = 0; k < many_; ++k) rule_.push_back(names_[k][0] - '0');
    }

    i64 feature(char letter, i64 i) const {
        const i64 a = lo_[i], b = hi_[i];
        auto below = [](const std::vector<i64> &v, i64 x) { return std::lower_bound(v.begin(), v.end(), x) - v.begin(); };
        switch (letter) {
            case 'W': return b - a;
            case 'A': return (b - a) * size_[i];
            case 'S': return size_[i];
            case 'T': return most_in(total_.data(), a, b);
            case 'O': return below(begins_, b) - below(ended_, a + 1);
            case 'F': return -a;
            case 'L': return b;
            default: return -std::max<i64>({a - hot_, hot_ - b, 0});  // H
        }
    }

    // Ranks of the rows in one order.
    void make(i64 k) {
        if (made_[k]) return;
        made_[k] = true;
        const i64 n = buffers.size();
        std::vector<std::array<i64, 4>> sorted(n);  // up to three letters, largest first, and the row
        for (i64 i = 0; i < n; ++i) sorted[i] = {0, 0, 0, i};
        for (std::size_t q = 1; names_[k][q]; ++q) {
            auto &all = features_[names_[k][q]];
            for (i64 i = all.size(); i < n; ++i) all.push_back(feature(names_[k][q], i));
            for (i64 i = 0; i < n; ++i) sorted[i][q - 1] = -all[i];
        }
        std::sort(sorted.begin(), sorted.end());
        for (i64 place = 0; place < n; ++place) rank_[k * n + sorted[place][3]] = place;
    }

    // Per row the equal one that an order has before it, or -1.
    void find_twins(i64 k) {
        const i64 n = buffers.size();
        if (group_.empty()) group_ = groups();
        twin_.resize(n * many_);
        std::vector<i64> row_at(n), earlier(n, -1);
        for (i64 i = 0; i < n; ++i) row_at[rank_[k * n + i]] = i;
        for (const i64 i : row_at) twin_[k * n + i] = earlier[group_[i]], earlier[group_[i]] = i;
    }

    // Equal rows share a number: the same sections, size and alignment.
    std::vector<i64> groups() const {
        const i64 n = buffers.size();
        std::vector<std::array<i64, 5>> sorted;  // what has to be equal, and the row
        for (i64 i = 0; i < n; ++i) sorted.push_back({lo_[i], hi_[i], real_[i], alignment_[i], i});
        std::sort(sorted.begin(), sorted.end());
        std::vector<i64> group(n);
        for (i64 k = 0, many = 0; k < n; ++k) {
            if (k && !std::equal(sorted[k].begin(), sorted[k].end() - 1, sorted[k - 1].begin())) many = k;
            group[sorted[k][4]] = many;
        }
        return group;
    }
};

// plan.windows.repair.
class Repair {
  public:
    Repair(const Flat &flat, i64 grain, i64 *now) : flat_(flat), grain_(grain), now_(now) {
        for (i64 i = 0; i < flat.count; ++i)
            if (flat.segment_of[i] < flat.segment_of[i + 1] && flat.size[i] > 0) births_.push_back(i);
        std::stable_sort(births_.begin(), births_.end(), [&](i64 a, i64 b) { return first(a) < first(b); });
        for (i64 s = 0; s < flat.segment_of[flat.count]; ++s) last_ = std::max(last_, flat.end[s]);
    }

    // Offsets no higher than those given; nodes spent. Stops at `target` (bytes), after `budget` nodes, at the deadline.
    i64 run(i64 target, i64 budget, double deadline) {
        budget_ = budget;
        for (i64 turn = 0; turn < kRounds; ++turn) {
            std::vector<i64> high;
            for (i64 i = 0; i < flat_.count; ++i)
                if (top(i) > target) high.push_back(i);
            if (high.empty() || spent_ >= budget_ || now() > deadline) break;
            windows(high, i64(1) << turn);
            fill();
            for (const auto &w : windows_) {
                if ((i64)(w.inside.size() + w.crossing.size()) > kMostRows || spent_ >= budget_ || now() > deadline) continue;
                again(w, target, deadline);
            }
        }
        return spent_;
    }

  private:
    struct Window {
        i64 first, end;
        std::vector<i64> inside, crossing;
    };
    const Flat &flat_;
    i64 grain_, *now_, last_ = 0, spent_ = 0, budget_ = 0;
    std::vector<i64> births_;
    std::vector<Window> windows_;

    i64 first(i64 i) const { return flat_.first[flat_.segment_of[i]]; }
    i64 end(i64 i) const { return flat_.end[flat_.segment_of[i]]; }
    i64 top(i64 i) const { return flat_.size[i] ? now_[i] + flat_.size[i] : 0; }

    void windows(const std::vector<i64> &high, i64 wide) {
        std::vector<std::pair<i64, i64>> spans;
        for (const i64 i : high) {
            const i64 margin = (end(i) - first(i)) * wide;
            spans.emplace_back(std::max<i64>(first(i) - margin, 0), std::min(end(i) + margin, last_ + 1));
        }
        std::sort(spans.begin(), spans.end());
        windows_.clear();
        for (const auto &[a, z] : spans) {
            if (!windows_.empty() && a < windows_.back().end) windows_.back().end = std::max(windows_.back().end, z);
            else windows_.push_back({a, z, {}, {}});
        }
    }

    void fill() {
        std::size_t at = 0;
        std::vector<i64> alive;
        for (auto &w : windows_) {
            for (; at < births_.size() && first(births_[at]) < w.end; ++at) alive.push_back(births_[at]);
            alive.erase(std::remove_if(alive.begin(), alive.end(), [&](i64 i) { return end(i) <= w.first; }), alive.end());
            for (const i64 i : alive) (w.first <= first(i) && end(i) <= w.end ? w.inside : w.crossing).push_back(i);
        }
    }

    void again(const Window &w, i64 target, double deadline) {
        i64 reached = 0, nodes = 0;
        Rows part;
        for (const i64 i : w.inside) {
            reached = std::max(reached, top(i));
            part.add(flat_.size[i], flat_.alignment[i], -1, first(i), end(i));
        }
        for (const i64 i : w.crossing)
            part.add(flat_.size[i], flat_.alignment[i], now_[i], std::max(first(i), w.first), std::min(end(i), w.end));
        part.rank();
        Cliques cliques(part, grain_);
        std::vector<i64> offsets;
        for (const i64 aim : {target, (target + reached) / 2}) {
            const i64 most = std::min<i64>(kNodesPerRow * w.inside.size(), budget_ - spent_);
            const int answer = cliques.decide(aim, most, deadline, &nodes, offsets);
            spent_ += nodes;
            if (answer != 1) continue;
            for (std::size_t k = 0; k < offsets.size(); ++k) now_[w.inside[cliques.buffers[k]]] = offsets[k];
            return;
        }
    }
};

}  // namespace

extern "C" {

// Changes `offsets` (a correct placement) for a lower one; returns the nodes spent.
std::int64_t lowtide_repair(const Flat *flat, std::int64_t grain, std::int64_t target, std::int64_t budget, double seconds,
                            std::int64_t *offsets) {
    return Repair(*flat, grain, offsets).run(target, budget, now() + seconds);
}

}  // extern "C"
