// Descents that go back where they fail, for peaks in which few are alive at once. Compiled after repair.cpp, in one piece with
// it. Twin in Python: plan/backtrack.py; tests compare them offset for offset.

namespace {

constexpr i64 kCrowded = 3'000'000, kPatience = 12, kBack = 8, kLooks = 4, kKeys = i64(1) << 61;  // as in backtrack.py

#pragma GCC push_options
#pragma GCC optimize("O3")

// Of the rows [from, to) that end after `lo`, none lies below `top`; those that did get a key for their new place.
void lift_with_keys(i64 *__restrict least, i64 *__restrict key, const i64 *__restrict rank, const i64 *__restrict ends, i64 from,
                    i64 to, i64 lo, i64 top, i64 n) {
    for (i64 q = from; q < to; ++q) {
        const bool lifted = (ends[q] > lo) & (least[q] < top);
        least[q] = lifted ? top : least[q];
        key[q] = lifted ? top * n + rank[q] : key[q];
    }
}

// Keys of the rows [from, to) for the places that they have now; those without one stay so.
void renew_keys(i64 *__restrict key, const i64 *__restrict least, const i64 *__restrict rank, i64 from, i64 to, i64 n) {
    for (i64 q = from; q < to; ++q) key[q] = key[q] == kPlaced<i64> ? key[q] : least[q] * n + rank[q];
}

// Whether the sections [from, to) can each take what is left for them, above the lowest offset that is left there. `covers`: the
// rows of section after section, from starts[section] on. `witness`: per section a row that lies low enough as far as is known;
// mostly it still does, and no other has to be looked at.
bool all_can(const i64 *least, const i64 *left, const std::int32_t *covers, const i64 *starts, std::int32_t *witness, i64 from,
             i64 to, i64 room) {
    for (i64 s = from; s < to; ++s) {
        const i64 highest = room - left[s];
        if (least[witness[s]] <= highest) continue;
        i64 q = starts[s];
        while (q < starts[s + 1] && least[covers[q]] > highest) ++q;
        if (q == starts[s + 1]) return false;
        witness[s] = covers[q];
    }
    return true;
}

#pragma GCC pop_options

class Backtrack {
  public:
    // Orders of the peak from the second one on are asked in turn.
    Backtrack(Cliques &peak, i64 capacity)
        : peak_(peak), capacity_(capacity), n_(peak.buffers.size()), room_(align_up(capacity, peak.grain_) / peak.unit),
          starts_(peak.sections_ + 1) {
        peak.by_birth();
        i64 latest = 0;
        for (i64 k = 0; k < n_; ++k) {
            latest_.push_back(latest = std::max(latest, hi(k)));
            for (i64 s = lo(k); s < hi(k); ++s) ++starts_[s + 1];
        }
        std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    }

    // backtrack.serves: whether the peak is small enough.
    bool serves() const {
        i64 work = 0;
        for (i64 k = 0; k < n_; ++k) work += starts_[end(k)] - starts_[first(k)];
        return work <= kCrowded && room_ < kKeys / n_;
    }

    // Numbers that a step looks at, on average.
    i64 cost() const {
        i64 sections = 0;
        for (i64 k = 0; k < n_; ++k) sections += end(k) - first(k);
        return kLooks * (peak_.near() + sections) / n_;
    }

    // Whether some offsets (bytes) within the capacity were found; `tried`: how many placements were made.
    bool run(i64 nodes, i64 *tried, std::vector<i64> &offsets) {
        begin();
        i64 failed = 0, order = 0, patience = kPatience, back = kBack;
        for (*tried = 0; (i64)steps_.size() < n_;) {
            const i64 row = pick();
            if (row >= 0) {
                if (*tried == nodes) return false;
                ++*tried;
                if (place(row)) continue;
            } else if (steps_.empty()) {
                return false;
            }
            if (++failed <= patience) {
                if (!go_back()) return false;
                continue;
            }
            take_back(std::max<i64>((i64)steps_.size() - back, 0));
            failed = 0, back *= 2, order = (order + 1) % (peak_.many_ - 1);
            if (steps_.empty()) patience *= 2;  // or the same orders would end where they ended before
            turn(1 + order);
        }
        for (const Step &step : steps_) offsets[peak_.births_[step.row]] = step.at * peak_.unit;
        return true;
    }

  private:
    struct Step {
        i64 row, at;
        std::size_t before, woken, slept;  // how long before_, woken_ and slept_ were
    };
    static constexpr i64 kNever = kPlaced<i64>;
    Cliques &peak_;
    i64 capacity_, n_, room_, sleepers_ = 0;
    // By row (rows are buffers by birth): `least_` is room_ and `key_` kNever where a row is placed; asleep, only `key_` is.
    std::vector<i64> least_, key_, least_key_, rank_, row_of_, latest_, starts_, left_;
    std::vector<std::uint8_t> asleep_;
    std::vector<std::int32_t> covers_, witness_;  // see all_can
    std::vector<Step> steps_;
    std::vector<i64> before_, woken_, slept_;  // what steps changed, and what went to sleep after them

    i64 lo(i64 row) const { return peak_.lo_[peak_.births_[row]]; }
    i64 hi(i64 row) const { return peak_.ends_[row]; }

    // The sections that those cover among which are all that meet a row.
    i64 first(i64 row) const { return lo(peak_.meets_from_[row]); }
    i64 end(i64 row) const { return latest_[peak_.meets_to_[row] - 1]; }

    void begin() {
        least_.assign(n_, 0), key_.assign(n_, 0), rank_.resize(n_), row_of_.resize(n_), asleep_.assign(n_, 0);
        least_key_.resize((n_ + kRows - 1) / kRows);
        for (i64 s = 0; s < peak_.sections_; ++s) left_.push_back(peak_.total_[s] / peak_.unit);
        covers_.resize(starts_.back());
        std::vector<i64> at(starts_);
        for (i64 k = 0; k < n_; ++k)
            for (i64 s = lo(k); s < hi(k); ++s) covers_[at[s]++] = k;
        for (i64 s = 0; s < peak_.sections_; ++s) witness_.push_back(covers_[starts_[s]]);
        turn(1);
    }

    void key(i64 row) { key_[row] = least_[row] * n_ + rank_[row]; }

    void turn(i64 order) {
        peak_.make(order);
        for (i64 k = 0; k < n_; ++k) {
            rank_[k] = peak_.rank_[order * n_ + peak_.births_[k]], row_of_[rank_[k]] = k;
            if (key_[k] != kNever) key(k);
        }
        renew(0, n_);
    }

    void renew(i64 from, i64 to) { renew_least(least_key_.data(), key_.data(), from, to, n_); }

    i64 pick() const {
        const i64 least = least_in(least_key_.data(), (i64)least_key_.size());
        if (least == kNever) return -1;
        const i64 row = row_of_[least % n_], at = least_[row];
        const bool fits = at * peak_.unit + peak_.real_[peak_.births_[row]] <= capacity_;
        return fits && at <= room_ - most_in(left_.data(), lo(row), hi(row)) ? row : -1;
    }

    bool place(i64 row) {
        const i64 at = least_[row], size = peak_.size_[peak_.births_[row]], top = at + size;
        const i64 a = peak_.meets_from_[row], z = peak_.meets_to_[row];
        steps_.push_back({row, at, before_.size(), woken_.size(), slept_.size()});
        before_.insert(before_.end(), least_.begin() + a, least_.begin() + z);
        lower(left_.data(), lo(row), hi(row), size);
        least_[row] = room_, key_[row] = kNever;
        for (i64 q = a; sleepers_ && q < z; ++q)
            if (asleep_[q] && hi(q) > lo(row) && least_[q] < top) asleep_[q] = 0, --sleepers_, woken_.push_back(q);
        lift_with_keys(least_.data(), key_.data(), rank_.data(), peak_.ends_.data(), a, z, lo(row), top, n_);
        for (i64 q = a; peak_.uneven_ && q < z; ++q) {
            if (least_[q] != top) continue;
            const i64 aligned = std::min(align_up(top, peak_.alignment_[peak_.births_[q]]), room_);
            if (aligned != top) least_[q] = aligned, key(q);
        }
        renew(a, z);
        return all_can(least_.data(), left_.data(), covers_.data(), starts_.data(), witness_.data(), first(row), end(row), room_);
    }

    void sleep(i64 row) { asleep_[row] = 1, ++sleepers_, key_[row] = kNever, renew(row, row + 1); }

    void take_back(i64 depth) {
        for (; (i64)steps_.size() > depth; steps_.pop_back()) {
            const Step &step = steps_.back();
            const i64 a = peak_.meets_from_[step.row], z = peak_.meets_to_[step.row];
            for (; slept_.size() > step.slept; slept_.pop_back())
                asleep_[slept_.back()] = 0, --sleepers_, key(slept_.back()), renew(slept_.back(), slept_.back() + 1);
            lower(left_.data(), lo(step.row), hi(step.row), -peak_.size_[peak_.births_[step.row]]);
            std::copy(before_.begin() + step.before, before_.end(), least_.begin() + a);
            before_.resize(step.before);
            key_[step.row] = 0;
            renew_keys(key_.data(), least_.data(), rank_.data(), a, z, n_);
            renew(a, z);
            for (; woken_.size() > step.woken; woken_.pop_back()) sleep(woken_.back());
        }
    }

    bool go_back() {
        while (!steps_.empty()) {
            const i64 row = steps_.back().row;
            take_back((i64)steps_.size() - 1);
            for (i64 q = peak_.meets_from_[row]; q < peak_.meets_to_[row]; ++q) {
                if (q == row || hi(q) <= lo(row) || (key_[q] == kNever && !asleep_[q])) continue;
                sleep(row), slept_.push_back(row);
                return true;
            }
        }
        return false;
    }
};

}  // namespace
