// Sections of a plain problem, repair in windows of time, and placement anew for other sizes: the driver functions that are
// too slow in Python where milliseconds count. Compiled after greedy.cpp and search.cpp, in one piece with them. Twins in
// Python: plan/sections.py, plan/windows.py, plan/replan.py; tests compare them offset for offset.

#include <array>
#include <map>
#include <numeric>

namespace {

// Rule and ranking: sections.ORDERS for the repair, replan._TRIES and _DENSE for placement anew.
constexpr const char *kOrders[] = {"0TOL", "1AS", "1FWS", "0HSO", "1THA", "0HLF", "0TWA", "2TS", "3HT"};
constexpr const char *kTries[] = {"0TWA", "0TOL", "0THA", "2FWS", "0HLF", "2WS"};
constexpr const char *kDense[] = {"0HOL", "0TOL", "0TFL", "0TWA", "0THA", "0HLF"};
static_assert(std::size(kTries) == std::size(kDense));
constexpr i64 kMostRows = 600, kNodesPerRow = 60, kRounds = 6;  // as in windows.py
constexpr i64 kGreedy = 2, kClose = 200, kMeet = 60'000, kMany = 600'000, kBelow = 9, kAbove = 10, kPatience = 48, kNear = 100;  // as in replan.py

i64 gcd_of(i64 a, i64 b) { return std::gcd(a, b); }

// The most in v[from, to), which is not empty; a loop that becomes one of vectors, unlike std::max_element.
i64 most_in(const std::vector<i64> &v, i64 from, i64 to) {
    i64 most = v[from];
    for (i64 k = from + 1; k < to; ++k) most = v[k] > most ? v[k] : most;
    return most;
}

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
    int decide(i64 capacity, i64 budget, double deadline, i64 *nodes, std::vector<i64> &offsets, i64 patience = 0) {
        limit_.clear();
        for (const i64 s : real_) limit_.push_back(capacity >= s ? (capacity - s) / unit : -1);
        offsets.assign(buffers.size(), 0);
        for (i64 order = 0; order < many_; ++order) make(order);
        const Sections in{(i64)buffers.size(), sections_, many_, size_.data(), alignment_.data(), limit_.data(),
                          range_of_.data(), lo_.data(), hi_.data(), obstacle_of_.data(), obstacle_lo_.data(), obstacle_hi_.data(),
                          rule_.data(), rank_.data(), twin_.data(), align_up(capacity, grain_) / unit};
        const int answer = search_within(in, budget, deadline, nodes, offsets.data(), patience);
        for (auto &x : offsets) x *= unit;
        return answer;
    }

    // Lowest offsets first, in one of the orders: what the exact search does until it has to go back. True where all end
    // within a capacity in bytes; no obstacles.
    bool descend(i64 order, i64 capacity, std::vector<i64> &offsets) {
        if (births_.empty()) by_birth();
        make(order);
        const i64 n = buffers.size(), room = align_up(capacity, grain_) / unit;
        constexpr i64 kRun = 32, kPlaced = std::numeric_limits<i64>::max();
        std::vector<i64> least(n), rank(n), left(sections_), first(n / kRun + 1, 0), at(n / kRun + 1, -1);
        for (i64 k = 0; k < n; ++k) rank[k] = rank_[order * n + births_[k]];
        for (i64 i = 0; i < n; ++i)
            for (i64 s = lo_[i]; s < hi_[i]; ++s) left[s] += size_[i];
        auto lower = [&](i64 a, i64 b) { return least[a] != least[b] ? least[a] < least[b] : rank[a] < rank[b]; };
        offsets.assign(n, 0);
        for (i64 placed = 0; placed < n; ++placed) {
            i64 k = 0;
            for (i64 run = 0; run * kRun < n; ++run) {
                if (at[run] != least[first[run]] || placed == 0) {  // offsets only rise: the first stays first until it moves
                    first[run] = run * kRun;
                    for (i64 q = run * kRun + 1; q < std::min(n, (run + 1) * kRun); ++q)
                        if (lower(q, first[run])) first[run] = q;
                    at[run] = least[first[run]];
                }
                if (lower(first[run], k)) k = first[run];
            }
            const i64 i = births_[k], lo = lo_[i], top = least[k] + size_[i];
            // What is placed before it from now on would lift it by all that it takes out of the way.
            if (least[k] > room - most_in(left, lo, hi_[i]) || least[k] * unit + real_[i] > capacity) return false;
            offsets[i] = least[k] * unit, least[k] = kPlaced;
            for (i64 s = lo; s < hi_[i]; ++s) left[s] -= size_[i];
            lift(lo, top, meets_from_[k], meets_to_[k], ends_.data(), least.data());
            for (i64 q = meets_from_[k]; uneven_ && q < meets_to_[k]; ++q)
                if (least[q] == top) least[q] = align_up(top, alignment_[births_[q]]);
        }
        return true;
    }

  private:
    i64 grain_;
    const char *const *names_;  // of the orders
    i64 many_, sections_ = 0;
    std::vector<i64> before_;  // per moment, how many sections have their moment before it
    std::vector<i64> real_, size_, alignment_, limit_, range_of_, lo_, hi_, obstacle_of_, obstacle_lo_, obstacle_hi_;
    std::vector<i64> rule_, rank_, twin_;
    // Rows by the section in which they begin, their ends, and where in births_ all lie that meet each.
    std::vector<i64> births_, ends_, meets_from_, meets_to_;
    bool uneven_ = false;  // some alignment is not the unit

    // What begins in births_[from, to) and ends after `lo` to `top` at least. No branch, so that compilers make vectors of it.
    static void lift(i64 lo, i64 top, i64 from, i64 to, const i64 *__restrict ends, i64 *__restrict least) {
        for (i64 q = from; q < to; ++q) least[q] = (ends[q] > lo) & (least[q] < top) ? top : least[q];
    }

    void by_birth() {
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
        group_ = groups();
        made_.resize(many_), rank_.resize(n * many_), twin_.resize(n * many_);
        for (i64 k = 0; k < many_; ++k) rule_.push_back(names_[k][0] - '0');
    }

    i64 feature(char letter, i64 i) const {
        const i64 a = lo_[i], b = hi_[i];
        auto below = [](const std::vector<i64> &v, i64 x) { return std::lower_bound(v.begin(), v.end(), x) - v.begin(); };
        switch (letter) {
            case 'W': return b - a;
            case 'A': return (b - a) * size_[i];
            case 'S': return size_[i];
            case 'T': return most_in(total_, a, b);
            case 'O': return below(begins_, b) - below(ended_, a + 1);
            case 'F': return -a;
            case 'L': return b;
            default: return -std::max<i64>({a - hot_, hot_ - b, 0});  // H
        }
    }

    // Ranks of the rows in one order, and the equal row that comes before.
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
        std::vector<i64> earlier(n, -1);
        for (i64 place = 0; place < n; ++place) {
            const i64 i = sorted[place][3];
            rank_[k * n + i] = place, twin_[k * n + i] = earlier[group_[i]], earlier[group_[i]] = i;
        }
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

// plan.layers.Layers: buffers from the lowest up, and per place in that order what lies below (the ground left out).
struct Layers {
    const std::int64_t *order, *below_of, *below;
};

}  // extern "C"

namespace {

// plan.layers.layers; `below` has room for four entries per segment: every buffer touches what it hides from above, which
// happens to at most two parts of the skyline per segment placed, and two more parts at its ends.
void layers_of(const Flat &flat, const i64 *offsets, i64 *order, i64 *below_of, i64 *below) {
    i64 last = 0;
    for (i64 s = 0; s < flat.segment_of[flat.count]; ++s) last = std::max(last, flat.end[s]);
    std::vector<i64> skyline(last, -1), seen(flat.count, -1);
    std::iota(order, order + flat.count, 0);
    std::stable_sort(order, order + flat.count, [&](i64 a, i64 b) { return offsets[a] < offsets[b]; });
    i64 many = below_of[0] = 0;
    for (i64 k = 0; k < flat.count; ++k) {
        const i64 i = order[k];
        for (i64 s = flat.segment_of[i]; s < flat.segment_of[i + 1]; ++s)
            for (i64 t = flat.first[s]; t < flat.end[s]; ++t) {
                const i64 j = skyline[t];
                skyline[t] = i;
                if (j < 0 || seen[j] == i) continue;
                seen[j] = i, below[many++] = j;
            }
        below_of[k + 1] = many;
    }
}

// plan.layers.settle.
bool settle(const Flat &flat, const Layers &known, i64 limit, i64 *offsets) {
    for (i64 k = 0; k < flat.count; ++k) {
        const i64 i = known.order[k];
        i64 at = 0;
        for (i64 q = known.below_of[k]; q < known.below_of[k + 1]; ++q)
            at = std::max(at, offsets[known.below[q]] + flat.size[known.below[q]]);
        offsets[i] = at = align_up(at, flat.alignment[i]);
        if (flat.size[i] && at + flat.size[i] > limit) return false;
    }
    return true;
}

// plan.replan: layers of earlier shapes, greedy orders, descents, then the exact search, a little above the bound.
class Replan {
  public:
    Replan(const Flat &flat, i64 grain) : flat_(flat), grain_(grain), offsets_(flat.count), best_(flat.count) {
        i64 last = 0;
        for (i64 s = 0; s < flat.segment_of[flat.count]; ++s) last = std::max(last, flat.end[s]);
        std::vector<i64> padded(last + 1);
        alive_.resize(last + 1);
        i64 most = 0;
        for (i64 s = 0; s < flat.segment_of[flat.count]; ++s) {
            const i64 nbytes = flat.high[s], whole = align_up(nbytes, grain);
            alive_[flat.first[s]] += nbytes, alive_[flat.end[s]] -= nbytes;
            padded[flat.first[s]] += whole, padded[flat.end[s]] -= whole;
            most = std::max(most, whole - nbytes);
        }
        std::partial_sum(alive_.begin(), alive_.end(), alive_.begin());
        std::partial_sum(padded.begin(), padded.end(), padded.begin());
        for (const i64 x : alive_) bound = std::max(bound, x);
        for (const i64 x : padded) bound = std::max(bound, x - most);
    }

    i64 bound = 0, height = -1, packer = 0, used = -1;

    // Whether some of `many` layerings is near the bound at these sizes; `used` then says which.
    bool again(const Layers *known, i64 many, i64 *offsets) {
        for (i64 k = 0; k < many && (height < 0 || height > close()); ++k) {
            if (!settle(flat_, known[k], height < 0 ? bound + bound / kNear : height - 1, offsets_.data())) continue;
            offer(kGreedy + 2);
            used = k;
        }
        if (used >= 0) std::copy(best_.begin(), best_.end(), offsets);
        return used >= 0;
    }

    void run(i64 budget, i64 *offsets) {
        Greedy greedy(flat_);
        const bool single = flat_.segment_of[flat_.count] == flat_.count, able = single && budget > 0;
        const i64 met = able ? meetings() : 0;
        const bool searched = able && met <= kMeet;
        for (i64 name = 0; name < (searched ? 1 : kGreedy) && (height < 0 || height > close()); ++name) {
            greedy.place(order(name).data(), flat_.count, name == 1, offsets_.data());
            offer(name);
        }
        if (single && height > close()) {
            Cliques cliques(rows(), grain_, searched ? kTries : kDense, std::size(kTries));
            descend(cliques, searched ? 1 : 0, searched ? 2 : 3);  // replan._BEFORE, _BEFORE_DENSE
            if (able && met <= kMany && height > aim(kAbove)) dive(cliques, budget);
        }
        std::copy(best_.begin(), best_.end(), offsets);
    }

  private:
    const Flat &flat_;
    i64 grain_;
    std::vector<i64> offsets_, best_, alive_;

    i64 close() const { return bound + bound / kClose; }

    // Pairs of buffers alive at once; steps of the search are dear where there are many.
    i64 meetings() const {
        std::vector<i64> born(alive_.size() + 1), died(alive_.size() + 1);
        for (i64 i = 0; i < flat_.count; ++i) ++born[flat_.first[i]], ++died[flat_.end[i]];
        i64 alive = 0, met = 0;
        for (std::size_t t = 0; t < born.size(); ++t) {
            alive -= died[t];
            met += born[t] * alive + born[t] * (born[t] - 1) / 2;
            alive += born[t];
        }
        return met;
    }

    Rows rows() const {
        Rows out;
        for (i64 i = 0; i < flat_.count; ++i)
            out.add(flat_.size[i], flat_.alignment[i], -1, flat_.first[flat_.segment_of[i]], flat_.end[flat_.segment_of[i]]);
        return out;
    }

    i64 aim(i64 above) const { return std::max(align_up(bound, grain_), bound * (1000 + above) / 1000); }

    void take(const Cliques &cliques, const std::vector<i64> &found, i64 name) {
        std::fill(offsets_.begin(), offsets_.end(), 0);
        for (std::size_t k = 0; k < found.size(); ++k) offsets_[cliques.buffers[k]] = found[k];
        offer(name);
    }

    // The orders from one on, until one comes near the bound.
    void descend(Cliques &cliques, i64 order, i64 end) {
        std::vector<i64> found;
        for (; order < end && height > aim(kBelow); ++order)
            if (cliques.descend(order, aim(kBelow), found)) take(cliques, found, kGreedy);
    }

    void dive(Cliques &cliques, i64 budget) {
        std::vector<i64> found;
        i64 nodes = 0;
        if (cliques.decide(aim(kAbove), budget, now() + 3600, &nodes, found, kPatience) == 1) take(cliques, found, kGreedy + 1);
    }

    void offer(i64 name) {
        i64 top = 0;
        for (i64 i = 0; i < flat_.count; ++i)
            if (flat_.size[i]) top = std::max(top, offsets_[i] + flat_.size[i]);
        if (height >= 0 && top >= height) return;
        height = top, packer = name, best_ = offsets_;
    }

    // greedy.order_by, by number: size, breadth.
    std::vector<i64> order(i64 name) const {
        std::vector<std::pair<i64, i64>> key(flat_.count);
        for (i64 i = 0; i < flat_.count; ++i) {
            const i64 a = flat_.segment_of[i], z = flat_.segment_of[i + 1], size = flat_.size[i];
            const i64 first = a < z ? flat_.first[a] : 0, end = a < z ? flat_.end[z - 1] : 0, life = end - first;
            if (name == 0) key[i] = {-size, -life};
            if (name == 1) key[i] = {a < z ? -most_in(alive_, first, end) : 0, -size};
        }
        std::vector<i64> out(flat_.count);
        std::iota(out.begin(), out.end(), 0);
        std::stable_sort(out.begin(), out.end(), [&](i64 a, i64 b) { return key[a] < key[b]; });
        return out;
    }
};

}  // namespace

extern "C" {

// Changes `offsets` (a correct placement) for a lower one; returns the nodes spent.
std::int64_t lowtide_repair(const Flat *flat, std::int64_t grain, std::int64_t target, std::int64_t budget, double seconds,
                            std::int64_t *offsets) {
    return Repair(*flat, grain, offsets).run(target, budget, now() + seconds);
}

// A plain problem with nothing fixed. `known`: layers of earlier placements. `found`: height, lower bound, number of the
// packer, which layers were used or -1.
void lowtide_replan(const Flat *flat, std::int64_t grain, std::int64_t budget, const Layers *known, std::int64_t many,
                    std::int64_t *offsets, std::int64_t *found) {
    Replan work(*flat, grain);
    if (!work.again(known, many, offsets)) work.run(budget, offsets);
    found[0] = work.height, found[1] = work.bound, found[2] = work.packer, found[3] = work.used;
}

void lowtide_layers(const Flat *flat, const std::int64_t *offsets, std::int64_t *order, std::int64_t *below_of,
                    std::int64_t *below) {
    layers_of(*flat, offsets, order, below_of, below);
}

}  // extern "C"
