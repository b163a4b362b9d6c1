// The exact search, compiled. Plain C interface, no Python.h; comes after greedy.cpp in one piece with it.
//
// plan/search.py holds the same algorithm in Python: same decisions, same node counts; tests compare them. All offsets are
// decided by comparisons of whole numbers; the clock is read only as an emergency stop.

extern "C" {

// plan.sections.Sections
struct Sections {
    std::int64_t count, sections, orders;
    const std::int64_t *size, *alignment, *limit, *range_of, *lo, *hi, *obstacle_of, *obstacle_lo, *obstacle_hi;
    const std::int64_t *rule, *rank, *before;  // per order; rank and before: orders x count
    std::int64_t capacity;
};

}  // extern "C"

namespace {

// ---- exact search -----------------------------------------------------------------------------------------------

// Place or defer. A placement can be pushed down until every buffer rests on another one, on a fixed obstacle or on the
// ground; so at each step some buffer lies at the least offset that what is placed already leaves it. The search picks
// one buffer and tries it there, under everything unplaced that it overlaps; where that fails, the buffer is deferred: it
// must rise above something unplaced first, and is not asked again until its least offset rises.
template <class T>
class Search {
  public:
    explicit Search(const Sections &in) : in_(in), n_(in.count), capacity_(in.capacity) {
        for (i64 i = 0; i < n_; ++i) {
            size_.push_back(in.size[i]), align_.push_back(in.alignment[i]), limit_.push_back(in.limit[i]);
            hull_lo_.push_back(in.lo[in.range_of[i]]), hull_hi_.push_back(in.hi[in.range_of[i + 1] - 1]);
        }
        for (auto *v : {&acc_, &peak_, &low_, &top1_, &top2_, &low1_, &low2_, &left_}) v->resize(in.sections);
        for (auto *v : {&least_, &first_, &reach_, &raised_, &offset_}) v->resize(n_);
        count_.resize(in.sections), piece_.resize(in.sections), cut_.resize(in.sections + 1);
        perm_.resize(n_), spot_.resize(n_), placed_.resize(n_), deferred_.resize(n_);
        neighbours();
    }

    // Every order in turn, with node budgets that double, until one of them answers or `budget` nodes are spent.
    // 1: fits (offsets are written), 0: proved not to fit, -1: budget or deadline spent.
    int run(i64 budget, double deadline, i64 *nodes, i64 *offsets) {
        int answer = -1;
        *nodes = 0;
        for (i64 share = 2 * n_; answer < 0; share *= 2)
            for (i64 order = 0; order < in_.orders && answer < 0; ++order) {
                const i64 left = budget - *nodes;
                if (left <= 0 || now() > deadline) return -1;
                turn(order), reset();
                answer = solve(std::min(share, left), deadline);
                *nodes += nodes_;
            }
        if (answer == 1) std::copy(offset_.begin(), offset_.end(), offsets);
        return answer;
    }

  private:
    struct Span {  // of sections; empty if lo >= hi
        std::int32_t lo = std::numeric_limits<std::int32_t>::max(), hi = 0;
        void add(std::int32_t a, std::int32_t b) { lo = std::min(lo, a), hi = std::max(hi, b); }
    };
    struct Frame {  // one component of unplaced buffers, perm_[lo, hi), and the buffer being tried
        i64 lo, hi;
        Span hull;                    // sections that cover it
        i64 chosen = -1;
        i64 mark = 0;                 // trail before it was placed
        i64 pieces = 0, piece = -1;   // what then remains, in splits_, and the piece being solved
        bool lonely = false;          // it had no unplaced neighbour: if this fails, everything fails
    };
    enum Kind : std::int32_t { kLeast, kPlaced, kDeferred, kWoken };
    struct Change {
        Kind kind;
        std::int32_t buffer;
        T old;
    };
    static constexpr i64 kRun = 32;  // rows, by birth, of which the first to pick is remembered
    static constexpr T kMost = std::numeric_limits<T>::max();

    const Sections &in_;
    i64 n_, nodes_ = 0, rule_ = 0;
    T capacity_;
    const i64 *rank_ = nullptr, *before_ = nullptr;
    // first_ and reach_: what bound_reach() found after its first and its second round. acc_, peak_, low_ and count_ belong
    // to sections. All of these are kept from node to node; what may be out of date lies in the sections of stale_.
    std::vector<T> size_, align_, limit_, least_, first_, reach_, raised_, offset_, acc_, peak_, low_;
    std::vector<T> top1_, top2_, low1_, low2_, left_;  // left_: unplaced in a section
    std::vector<std::int32_t> hull_lo_, hull_hi_, cut_, near_, piece_, perm_, spot_, count_, waiting_;
    std::vector<std::int32_t> births_, cover_;
    // Per row its place in births_, and in this order the equal row that waits for it, or -1; per kRun rows of births_ the
    // first to pick, or -1, and whether that is out of date.
    std::vector<std::int32_t> born_, next_, champion_;
    std::vector<std::uint8_t> worn_;
    std::vector<i64> near_of_, birth_of_, cover_of_;
    std::vector<std::pair<T, std::int32_t>> sorted_;
    Span stale_;
    i64 asleep_ = 0;  // deferred rows
    std::vector<std::uint8_t> placed_, deferred_;
    std::vector<Change> trail_;
    std::vector<Frame> frames_;
    std::vector<std::pair<i64, i64>> splits_;

    bool meet(i64 a, i64 b) const {
        for (i64 r = in_.range_of[a]; r < in_.range_of[a + 1]; ++r)
            for (i64 q = in_.range_of[b]; q < in_.range_of[b + 1]; ++q)
                if (in_.lo[r] < in_.hi[q] && in_.lo[q] < in_.hi[r]) return true;
        return false;
    }

    // Rows by the section in which they begin, the rows whose hull covers a section, and who meets whom. Each list in two
    // passes: count, then fill.
    void neighbours() {
        births_.resize(n_);
        for (i64 i = 0; i < n_; ++i) births_[i] = i;
        std::stable_sort(births_.begin(), births_.end(), [&](auto a, auto b) { return hull_lo_[a] < hull_lo_[b]; });
        born_.resize(n_), next_.resize(n_), champion_.resize(n_ / kRun + 1), worn_.resize(n_ / kRun + 1);
        for (i64 k = 0; k < n_; ++k) born_[births_[k]] = k;
        birth_of_.assign(in_.sections + 2, 0);
        for (i64 i = 0; i < n_; ++i) ++birth_of_[hull_lo_[i] + 1];
        for (i64 s = 0; s <= in_.sections; ++s) birth_of_[s + 1] += birth_of_[s];
        lists(in_.sections, cover_of_, cover_, [&](auto see) {
            for (const auto b : births_)
                for (std::int32_t s = hull_lo_[b]; s < hull_hi_[b]; ++s) see(s, b);
        });
        const bool simple = in_.range_of[n_] == n_;  // one range per row: where hulls meet, rows do
        lists(n_, near_of_, near_, [&](auto see) {
            for (i64 i = 0; i < n_; ++i)
                for (i64 j = i + 1; j < n_ && hull_lo_[births_[j]] < hull_hi_[births_[i]]; ++j)
                    if (simple || meet(births_[i], births_[j])) see(births_[i], births_[j]), see(births_[j], births_[i]);
        });
    }

    template <class Each>
    static void lists(i64 many, std::vector<i64> &of, std::vector<std::int32_t> &all, Each each) {
        of.assign(many + 1, 0);
        each([&](i64 key, std::int32_t) { ++of[key + 1]; });
        for (i64 k = 0; k < many; ++k) of[k + 1] += of[k];
        all.resize(of[many]);
        std::vector<i64> next(of.begin(), of.end() - 1);
        each([&](i64 key, std::int32_t b) { all[next[key]++] = b; });
    }

    // The unplaced rows whose hull meets a span of sections.
    template <class See>
    void rows_in(Span span, See see) const {
        if (span.lo >= span.hi) return;
        for (i64 k = cover_of_[span.lo]; k < cover_of_[span.lo + 1]; ++k)
            if (!placed_[cover_[k]]) see(cover_[k]);
        for (i64 k = birth_of_[span.lo + 1]; k < birth_of_[span.hi]; ++k)
            if (!placed_[births_[k]]) see(births_[k]);
    }

    // The lowest offset from `at` on that is aligned for b and clear of the obstacles in its life.
    T clear(i64 b, T at) const {
        at = align_[b] == 1 ? at : (T)align_up(at, align_[b]);
        for (bool moved = in_.obstacle_of[b] < in_.obstacle_of[b + 1]; moved;) {
            moved = false;
            for (i64 k = in_.obstacle_of[b]; k < in_.obstacle_of[b + 1]; ++k)
                if (at + size_[b] > in_.obstacle_lo[k] && at < in_.obstacle_hi[k])
                    at = (T)align_up(in_.obstacle_hi[k], align_[b]), moved = true;
        }
        return at;
    }

    void reset() {
        std::fill(placed_.begin(), placed_.end(), 0);
        std::fill(deferred_.begin(), deferred_.end(), 0);
        std::fill(cut_.begin(), cut_.end(), 0);
        std::fill(left_.begin(), left_.end(), 0);
        for (i64 i = 0; i < n_; ++i) {
            leave(i, size_[i]);
            least_[i] = first_[i] = reach_[i] = clear(i, 0), perm_[i] = spot_[i] = i;
            for (i64 s = hull_lo_[i]; s < hull_hi_[i] - 1; ++s) ++cut_[s];
        }
        trail_.clear(), frames_.clear(), splits_.clear(), nodes_ = 0, stale_ = Span(), asleep_ = 0;
    }

    void turn(i64 order) {
        rule_ = in_.rule[order], rank_ = in_.rank + order * n_, before_ = in_.before + order * n_;
        std::fill(next_.begin(), next_.end(), -1);
        for (i64 i = 0; i < n_; ++i)
            if (before_[i] >= 0) next_[before_[i]] = i;
        std::fill(worn_.begin(), worn_.end(), 1);
    }

    void leave(i64 b, T size) {
        for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
            for (i64 s = in_.lo[r]; s < in_.hi[r]; ++s) left_[s] += size;
    }

    void touch(i64 b) { stale_.add(hull_lo_[b], hull_hi_[b]), wear(b); }

    // Whether b may be picked has changed, or its offset.
    void wear(i64 b) { worn_[born_[b] / kRun] = 1; }

    // b was placed or taken back: the equal row that waits for it may be picked, or no longer.
    void wear_next(i64 b) {
        if (next_[b] >= 0) wear(next_[b]);
    }

    void set_least(i64 b, T at) { least_[b] = first_[b] = reach_[b] = at, touch(b); }

    void undo(i64 mark) {
        while ((i64)trail_.size() > mark) {
            const auto [kind, b, old] = trail_.back();
            trail_.pop_back();
            if (kind == kLeast) set_least(b, old);
            if (kind == kDeferred) deferred_[b] = 0, --asleep_, set_least(b, least_[b]);
            if (kind == kWoken) deferred_[b] = 1, ++asleep_, touch(b);
            if (kind != kPlaced) continue;
            touch(b), wear_next(b), leave(b, size_[b]);
            placed_[b] = 0;
            for (i64 s = hull_lo_[b]; s < hull_hi_[b] - 1; ++s) ++cut_[s];
        }
    }

    // Places b at its least offset and lifts its unplaced neighbours; returns whether it has none.
    bool put(i64 b) {
        const T top = least_[b] + size_[b];
        placed_[b] = 1, offset_[b] = least_[b], touch(b), wear_next(b), leave(b, -size_[b]);
        trail_.push_back({kPlaced, (std::int32_t)b, 0});
        for (i64 s = hull_lo_[b]; s < hull_hi_[b] - 1; ++s) --cut_[s];
        bool lonely = true;
        for (i64 k = near_of_[b]; k < near_of_[b + 1]; ++k) {
            const std::int32_t v = near_[k];
            if (placed_[v]) continue;
            lonely = false;
            if (least_[v] >= top) continue;
            trail_.push_back({kLeast, v, least_[v]});
            set_least(v, clear(v, top));
            if (!deferred_[v]) continue;
            trail_.push_back({kWoken, v, 0});
            deferred_[v] = 0, --asleep_;
        }
        return lonely;
    }

    // Whether a component has a row that is not deferred.
    bool awake(i64 lo, i64 hi) const {
        for (i64 k = lo; k < hi && asleep_; ++k)
            if (!deferred_[perm_[k]]) return true;
        return !asleep_;
    }

    // Bounds from below the offset that deferred rows can still reach; false if one can never rest. A deferred row ends above
    // some unplaced neighbour, and one of them must be able to stand in its way. Only rows in stale sections can have changed;
    // those sections grow by whatever did change.
    bool bound_reach() {
        return !asleep_ || (raise_round(least_, least_, first_) && raise_round(first_, first_, reach_));
    }

    // One round over the deferred rows in stale sections: `to` becomes what `from` allows.
    bool raise_round(const std::vector<T> &own, const std::vector<T> &from, std::vector<T> &to) {
        Span wide, changed;
        i64 one_by_one = 0;
        waiting_.clear();
        rows_in(stale_, [&](std::int32_t b) {
            if (!deferred_[b]) return;
            waiting_.push_back(b), wide.add(hull_lo_[b], hull_hi_[b]);
            one_by_one += near_of_[b + 1] - near_of_[b];
        });
        if (waiting_.empty()) return true;
        const bool by_section = one_by_one > cover_of_[wide.hi] - cover_of_[wide.lo];
        if (by_section) two_least(wide, from);
        bool rests = true;
        for (const auto b : waiting_) {
            const auto [rise, lowest] = by_section ? around_by_section(b, from) : around_by_list(b, from);
            rests = lowest < least_[b] + size_[b];
            const T now = rests ? std::max(own[b], clear(b, rise)) : own[b];
            if (now != to[b]) changed.add(hull_lo_[b], hull_hi_[b]);
            to[b] = now;
            if (!rests) break;
        }
        stale_.add(changed.lo, changed.hi);
        return rests;
    }

    // The least top and the least offset that b's unplaced neighbours can reach.
    std::pair<T, T> around_by_list(i64 b, const std::vector<T> &from) const {
        T rise = kMost, lowest = kMost;
        for (i64 q = near_of_[b]; q < near_of_[b + 1]; ++q) {
            const i64 v = near_[q];
            if (placed_[v]) continue;
            rise = std::min<T>(rise, from[v] + size_[v]);
            lowest = std::min(lowest, from[v]);
        }
        return {rise, lowest};
    }

    std::pair<T, T> around_by_section(i64 b, const std::vector<T> &from) const {
        const T own = from[b] + size_[b];
        T rise = kMost, lowest = kMost;
        for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
            for (i64 s = in_.lo[r]; s < in_.hi[r]; ++s) {
                rise = std::min(rise, top1_[s] == own ? top2_[s] : top1_[s]);
                lowest = std::min(lowest, low1_[s] == from[b] ? low2_[s] : low1_[s]);
            }
        return {rise, lowest};
    }

    // Per section of a span the two least offsets that its unplaced rows can reach, and the two least tops: what is around
    // a row is then the least that is not its own, without a walk over all its neighbours.
    void two_least(Span span, const std::vector<T> &from) {
        for (auto *v : {&top1_, &top2_, &low1_, &low2_}) std::fill(v->begin() + span.lo, v->begin() + span.hi, kMost);
        T *const top1 = top1_.data(), *const top2 = top2_.data(), *const low1 = low1_.data(), *const low2 = low2_.data();
        rows_in(span, [&](std::int32_t b) {
            const T low = from[b], top = low + size_[b];
            for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
                for (i64 s = std::max<i64>(in_.lo[r], span.lo), end = std::min<i64>(in_.hi[r], span.hi); s < end; ++s) {
                    top2[s] = std::min(top2[s], std::max(top1[s], top));
                    top1[s] = std::min(top1[s], top);
                    low2[s] = std::min(low2[s], std::max(low1[s], low));
                    low1[s] = std::min(low1[s], low);
                }
        });
    }

    // Whether what is unplaced in stale sections can still fit: in each, whatever starts at or above an offset must fit above
    // it. Brings those sections up to date; if it fails they stay stale.
    bool hopeful() {
        if (!bound_reach()) return false;
        if (stale_.lo >= stale_.hi) return true;
        if (rule_ == 0 ? !fits_lowest() : !fits()) return false;
        stale_ = Span();
        return true;
    }

    // The stale sections, and what may be picked in them.
    bool fits() {
        sorted_.clear();
        bool within = true;
        rows_in(stale_, [&](std::int32_t b) {
            sorted_.emplace_back(reach_[b], b);
            within &= reach_[b] <= limit_[b];
        });
        if (!within) return false;
        const std::int32_t left = stale_.lo, right = stale_.hi;
        std::sort(sorted_.begin(), sorted_.end(), [](auto &x, auto &y) { return x.first > y.first; });
        std::fill(acc_.begin() + left, acc_.begin() + right, 0);
        std::fill(peak_.begin() + left, peak_.begin() + right, 0);
        T *const acc = acc_.data(), *const peak = peak_.data();
        for (const auto &[reach, b] : sorted_) {
            const T size = size_[b];
            T most = 0;
            for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
                for (i64 s = std::max<i64>(in_.lo[r], left), end = std::min<i64>(in_.hi[r], right); s < end; ++s) {
                    acc[s] += size;
                    most = std::max(most, acc[s]);
                    peak[s] = std::max<T>(peak[s], acc[s] + reach);
                }
            if (most > capacity_ - reach) return false;
        }
        candidates(left, right);
        return true;
    }

    // The same answer for the rule that looks at no sections. All that is unplaced fits above most rows, and only the others
    // have to be asked what starts above them.
    bool fits_lowest() {
        T highest = 0, lowest = kMost;
        bool within = true;
        rows_in(stale_, [&](std::int32_t b) {
            within &= reach_[b] <= limit_[b];
            highest = std::max(highest, reach_[b]);
        });
        if (!within) return false;
        Span full, tight;  // sections in which not all that is unplaced fits above every row; above some row
        for (std::int32_t s = stale_.lo; s < stale_.hi; ++s)
            if (left_[s] > capacity_ - highest) full.add(s, s + 1);
        rows_in(full, [&](std::int32_t b) {
            if (most_left(b, full) <= capacity_ - reach_[b]) return;
            tight.add(std::max(hull_lo_[b], full.lo), std::min(hull_hi_[b], full.hi));
            lowest = std::min(lowest, reach_[b]);
        });
        if (tight.lo >= tight.hi) return true;
        sorted_.clear();
        rows_in(tight, [&](std::int32_t b) {
            if (reach_[b] >= lowest) sorted_.emplace_back(reach_[b], b);
        });
        std::sort(sorted_.begin(), sorted_.end(), [](auto &x, auto &y) { return x.first > y.first; });
        std::fill(acc_.begin() + tight.lo, acc_.begin() + tight.hi, 0);
        T *const acc = acc_.data();
        for (const auto &[reach, b] : sorted_) {
            T above = 0;
            for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
                for (i64 s = std::max<i64>(in_.lo[r], tight.lo), end = std::min<i64>(in_.hi[r], tight.hi); s < end; ++s) {
                    acc[s] += size_[b];
                    above = std::max(above, acc[s]);
                }
            if (above > capacity_ - reach) return false;
        }
        return true;
    }

    // The most that is unplaced in a section of b within a span.
    T most_left(i64 b, Span span) const {
        T most = 0;
        for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
            for (i64 s = std::max<i64>(in_.lo[r], span.lo), end = std::min<i64>(in_.hi[r], span.hi); s < end; ++s)
                most = std::max(most, left_[s]);
        return most;
    }

    // Per section what may be picked there: how many rows, and the lowest of their offsets.
    void candidates(i64 left, i64 right) {
        std::fill(count_.begin() + left, count_.begin() + right, 0);
        std::fill(low_.begin() + left, low_.begin() + right, kMost);
        for (const auto &[_, b] : sorted_) {
            if (!eligible(b)) continue;
            const T least = least_[b];
            for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
                for (i64 s = std::max<i64>(in_.lo[r], left), end = std::min<i64>(in_.hi[r], right); s < end; ++s) {
                    count_[s] += least + acc_[s] <= capacity_;
                    low_[s] = std::min(low_[s], least);
                }
        }
    }

    Span hull(i64 lo, i64 hi) const {
        Span span;
        for (i64 k = lo; k < hi; ++k) span.add(hull_lo_[perm_[k]], hull_hi_[perm_[k]]);
        return span;
    }

    bool eligible(i64 b) const { return !deferred_[b] && (before_[b] < 0 || placed_[before_[b]]); }

    // The section to decide on, by the order's rule; -1 where the rule looks at no sections. hopeful() came just before.
    i64 pivot(const Frame &f) {
        if (rule_ == 0) return -1;
        i64 best = -1;
        for (i64 s = f.hull.lo; s < f.hull.hi; ++s)
            if (count_[s] && (best < 0 || goes_first(s, best))) best = s;
        return best;
    }

    bool goes_first(i64 s, i64 t) const {
        if (rule_ == 3) {  // eighths of the capacity from below, then fewest candidates
            const i64 a = (i64)low_[s] * 8 / capacity_, b = (i64)low_[t] * 8 / capacity_;
            if (a != b) return a < b;
            return count_[s] != count_[t] ? count_[s] < count_[t] : low_[s] < low_[t];
        }
        if (low_[s] != low_[t]) return low_[s] < low_[t];
        if (rule_ == 2 && peak_[s] != peak_[t]) return peak_[s] > peak_[t];  // fullest
        return count_[s] < count_[t];
    }

    // The buffer to decide on: the lowest of the pivot section, or of all; its place in perm_, or -1.
    i64 pick(const Frame &f) {
        const i64 section = pivot(f);
        i64 best = -1;
        if (section < 0) {
            best = lowest(birth_of_[f.hull.lo], birth_of_[f.hull.hi]);
        } else {
            for (i64 k = cover_of_[section]; k < cover_of_[section + 1]; ++k)
                if (covers(cover_[k], section)) best = lower(best, cover_[k]);
        }
        return best < 0 ? -1 : spot_[best];
    }

    // Whichever of two rows is picked first; `b` only if it may be picked at all.
    i64 lower(i64 best, i64 b) const {
        if (placed_[b] || !eligible(b)) return best;
        const bool first = best < 0 || least_[b] < least_[best] || (least_[b] == least_[best] && rank_[b] < rank_[best]);
        return first ? b : best;
    }

    // The first to pick of births_[from, to).
    i64 lowest(i64 from, i64 to) {
        i64 best = -1;
        for (i64 k = from, run; k < to; k += run) {
            run = k % kRun == 0 && k + kRun <= to ? kRun : 1;
            if (run == 1) {
                best = lower(best, births_[k]);
                continue;
            }
            auto &champion = champion_[k / kRun];
            if (worn_[k / kRun]) {
                i64 found = -1;
                for (i64 q = k; q < k + kRun; ++q) found = lower(found, births_[q]);
                champion = found, worn_[k / kRun] = 0;
            }
            if (champion >= 0) best = lower(best, champion);
        }
        return best;
    }

    bool covers(i64 b, i64 section) const {
        for (i64 r = in_.range_of[b]; r < in_.range_of[b + 1]; ++r)
            if (in_.lo[r] <= section && section < in_.hi[r]) return true;
        return false;
    }

    // Splits perm_[lo, hi) where no unplaced buffer crosses; appends the parts to splits_, returns how many.
    i64 split(i64 lo, i64 hi) {
        if (lo == hi) return 0;
        const auto [left, right] = hull(lo, hi);
        std::int32_t part = 0;
        for (std::int32_t s = left; s < right; ++s) {
            piece_[s] = part;
            part += cut_[s] == 0;
        }
        if (part > 1)
            std::stable_sort(perm_.begin() + lo, perm_.begin() + hi,
                             [&](auto a, auto b) { return piece_[hull_lo_[a]] < piece_[hull_lo_[b]]; });
        for (i64 k = lo; k < hi; ++k) spot_[perm_[k]] = k;
        i64 many = 0;
        for (i64 k = lo, from = lo; k < hi; ++k)
            if (k + 1 == hi || piece_[hull_lo_[perm_[k]]] != piece_[hull_lo_[perm_[k + 1]]]) {
                splits_.emplace_back(from, k + 1);
                from = k + 1, ++many;
            }
        return many;
    }

    int solve(i64 budget, double deadline) {
        const i64 roots = split(0, n_);
        for (i64 r = 0; r < roots; ++r) {
            const auto [lo, hi] = splits_[r];
            stale_ = hull(lo, hi);
            if (!hopeful()) return 0;
            frames_.push_back({lo, hi, hull(lo, hi)});
            const int answer = component(budget, deadline);
            if (answer != 1) return answer;
            frames_.clear();
        }
        return 1;
    }

    int component(i64 budget, double deadline) {
        while (true) {
            const i64 k = pick(frames_.back());
            if (k < 0) {
                frames_.pop_back();
                if (frames_.empty() || !fail()) return 0;
                continue;
            }
            if (nodes_ >= budget || ((nodes_ & 255) == 255 && now() > deadline)) return -1;
            ++nodes_;
            if (!attempt(k)) {
                if (!fail()) return 0;
                continue;
            }
            while (frames_.back().piece == frames_.back().pieces) {  // solved: on to the next piece of its parent
                if (frames_.size() == 1) return 1;
                splits_.resize(splits_.size() - frames_.back().pieces);
                frames_.pop_back();
                descend();
            }
        }
    }

    // Places the buffer at perm_[k] of the top frame and opens the first piece of what remains, if all pieces can still fit.
    bool attempt(i64 k) {
        Frame &f = frames_.back();
        std::swap(perm_[k], perm_[f.hi - 1]);
        std::swap(spot_[perm_[k]], spot_[perm_[f.hi - 1]]);
        f.chosen = perm_[f.hi - 1], f.mark = trail_.size();
        f.lonely = put(f.chosen);
        f.pieces = parts(f);
        f.piece = -1;
        for (i64 p = 0; p < f.pieces; ++p) {
            const auto [lo, hi] = splits_[splits_.size() - f.pieces + p];
            if (!awake(lo, hi)) return false;
        }
        if (!hopeful()) return false;
        descend();
        return true;
    }

    // The pieces that remain without the row that was just placed; only where it was can one have become two.
    i64 parts(const Frame &f) {
        bool apart = false;
        for (i64 s = hull_lo_[f.chosen]; s < hull_hi_[f.chosen] - 1; ++s) apart |= cut_[s] == 0;
        if (apart) return split(f.lo, f.hi - 1);
        if (f.lo < f.hi - 1) splits_.emplace_back(f.lo, f.hi - 1);
        return f.lo < f.hi - 1;
    }

    // Opens the next piece of the top frame, if there is one.
    void descend() {
        Frame &f = frames_.back();
        if (++f.piece == f.pieces) return;
        const auto [lo, hi] = splits_[splits_.size() - f.pieces + f.piece];
        frames_.push_back({lo, hi, f.pieces > 1 ? hull(lo, hi) : f.hull});
    }

    // The attempt of the top frame failed: climbs to a frame that can go on. False if there is none.
    bool fail() {
        while (!defer()) {
            frames_.pop_back();
            if (frames_.empty()) return false;
        }
        return true;
    }

    // Takes the attempt back and defers its buffer; false if the component fails with that.
    bool defer() {
        Frame &f = frames_.back();
        undo(f.mark);
        splits_.resize(splits_.size() - f.pieces);
        f.pieces = 0, f.piece = -1;
        if (f.lonely) return false;
        trail_.push_back({kDeferred, (std::int32_t)f.chosen, 0});
        deferred_[f.chosen] = 1, ++asleep_, touch(f.chosen);
        return awake(f.lo, f.hi) && hopeful();
    }
};

int search_within(const Sections &in, i64 budget, double deadline, i64 *nodes, i64 *offsets) {
    i64 most = in.capacity;
    for (i64 i = 0; i < in.count; ++i) most = std::max(most, in.size[i] + in.alignment[i]);
    for (i64 k = 0; k < in.obstacle_of[in.count]; ++k) most = std::max(most, in.obstacle_hi[k]);
    if (most < (i64(1) << 28)) return Search<std::int32_t>(in).run(budget, deadline, nodes, offsets);
    return Search<i64>(in).run(budget, deadline, nodes, offsets);
}

}  // namespace

extern "C" {

// 1: fits, 0: proved not to fit, -1: budget (nodes) or seconds spent.
int lowtide_search(const Sections *in, std::int64_t budget, double seconds, std::int64_t *nodes, std::int64_t *offsets) {
    return search_within(*in, budget, now() + seconds, nodes, offsets);
}

}  // extern "C"
