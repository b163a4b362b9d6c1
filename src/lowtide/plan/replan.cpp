// Placement anew for other sizes. Compiled after greedy.cpp, search.cpp, repair.cpp and backtrack.cpp, in one piece with them.
// Twins in Python: plan/layers.py, plan/peaks.py and plan/replan.py; tests compare them offset for offset.

#include <optional>

extern "C" {

// plan.layers.Layers: buffers from the lowest up, and per place in that order what lies below (the ground left out).
struct Layers {
    const std::int64_t *order, *below_of, *below;
};

}  // extern "C"

namespace {

// The order of descents, and then backtrack.ORDERS; the rule is that of the exact search, which is not asked.
constexpr const char *kPeaks[] = {"0TWA", "0TLW", "0TAW", "0TFW", "0TOL", "0THA", "0HLF"};
constexpr i64 kTurns = 6, kMade = 64;  // as in peaks.py
// As in peaks.py.
constexpr struct Try {
    i64 above, hot, part;
} kTries[] = {{10, 84, 2}, {10, 0, 2}, {80, 84, 1}, {40, 84, 1}, {20, 84, 1}};
constexpr i64 kNear = 100;  // as in replan.py

enum Packer : i64 { kSize, kBreadth, kDescent, kBacktrack, kLayers };  // as in replan._PACKERS
enum Found : i64 { kFoundHeight, kFoundBound, kFoundPacker, kFoundLayers };  // places in what lowtide_replan reports

// plan.layers.layers; `below` has room for four entries per segment of a buffer: it hides parts of the skyline, each of which
// was made by a segment or by what another one left of it on its two sides.
void layers_of(const Flat &flat, const i64 *offsets, i64 *order, i64 *below_of, i64 *below) {
    std::vector<i64> seen(flat.count, -1);
    std::map<i64, i64> skyline{{0, -1}};  // from which moment on which buffer is on top
    std::iota(order, order + flat.count, 0);
    std::stable_sort(order, order + flat.count, [&](i64 a, i64 b) { return offsets[a] < offsets[b]; });
    i64 many = below_of[0] = 0;
    for (i64 k = 0; k < flat.count; ++k) {
        const i64 i = order[k];
        for (i64 s = flat.segment_of[i]; s < flat.segment_of[i + 1]; ++s) {
            auto part = std::prev(skyline.upper_bound(flat.first[s]));
            i64 on_top = part->second;
            if (part->first < flat.first[s]) ++part;
            auto see = [&](i64 j) {
                if (j >= 0 && seen[j] != i) seen[j] = i, below[many++] = j;
            };
            see(on_top);
            while (part != skyline.end() && part->first < flat.end[s]) on_top = part->second, see(on_top), part = skyline.erase(part);
            skyline.insert(part, {flat.end[s], on_top});
            skyline[flat.first[s]] = i;
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

// plan.replan: layers of earlier shapes, then peaks first.
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

    i64 bound = 0, height = -1, packer = kSize, used = -1;

    // Whether some of `many` layerings is near the bound at these sizes; `used` then says which.
    bool again(const Layers *known, i64 many, i64 *offsets) {
        for (i64 k = 0; k < many && used < 0; ++k) {
            if (!settle(flat_, known[k], bound + bound / kNear, offsets_.data())) continue;
            offer(kLayers);
            used = k;
        }
        if (used >= 0) accept(offsets);
        return used >= 0;
    }

    // plan.replan._placed. `work`: how many numbers may be looked at, about.
    void run(i64 work, bool back, i64 *offsets) {
        back_ = back;
        bool single = true;  // one segment per buffer, so that segments are numbered like buffers
        for (i64 i = 0; i < flat_.count; ++i) single &= flat_.segment_of[i + 1] - flat_.segment_of[i] == 1;
        i64 highest = -1;
        for (const auto &[above, hot, part] : kTries) highest = std::max(highest, aim(above));
        for (const auto &[above, hot, part] : kTries) {
            if (!single) break;
            if (height < 0 || height > aim(above)) {
                work -= work_ = work / part;
                peaks_first(aim(above), bound * hot / 100);
                work += work_;
            }
            const bool will_do = above == kTries[0].above, reached = height >= 0 && height <= aim(above);
            if (reached == will_do) break;
        }
        if (height >= 0 && height <= highest) return accept(offsets);
        for (const Packer name : {kSize, kBreadth}) {
            Greedy(flat_).place(order(name).data(), flat_.count, name == kBreadth, offsets_.data());
            offer(name);
        }
        accept(offsets);
    }

  private:
    const Flat &flat_;
    i64 grain_;
    std::vector<i64> offsets_, best_, alive_;
    // Of peaks_first: buffers with bytes by birth, whether each buffer is among those placed first, and their places or -1.
    std::vector<i64> births_, places_;
    std::vector<std::uint8_t> first_;
    Shelf shelf_;
    bool back_ = true, went_back_ = false;
    i64 work_ = 0;  // what the aim may still look at

    i64 aim(i64 above) const { return std::max(align_up(bound, grain_), bound * (1000 + above) / 1000); }

    void accept(i64 *offsets) const { std::copy(best_.begin(), best_.end(), offsets); }

    // plan.peaks.rounds.
    void peaks_first(i64 aim, i64 peak) {
        births_.clear(), went_back_ = false;
        for (i64 i = 0; i < flat_.count; ++i)
            if (flat_.size[i]) births_.push_back(i);
        std::stable_sort(births_.begin(), births_.end(), [&](i64 a, i64 b) { return flat_.first[a] < flat_.first[b]; });
        places_.assign(flat_.count, -1), first_.assign(flat_.count, 0);
        std::vector<std::uint8_t> hot(alive_.size());
        for (std::size_t t = 0; t < hot.size(); ++t) hot[t] = alive_[t] > peak;
        take_in(hot);
        const std::vector<i64> by_size = order(kSize);
        for (i64 turn = 0; turn < kTurns; ++turn) {
            if (!solve(aim)) return;
            around(by_size, turn > 0);
            offer(went_back_ ? kBacktrack : kDescent);
            bool high = false;
            std::fill(hot.begin(), hot.end(), turn + 2 == kTurns);
            for (const i64 i : births_) {
                if (offsets_[i] + flat_.size[i] <= aim) continue;
                high = true;
                std::fill(hot.begin() + flat_.first[i], hot.begin() + flat_.end[i], 1);
            }
            if (!high) return;
            take_in(hot);
        }
    }

    // Whatever lives at a hot moment is placed first.
    void take_in(const std::vector<std::uint8_t> &hot) {
        std::vector<i64> before(hot.size() + 1);  // how many of the moments before
        for (std::size_t t = 0; t < hot.size(); ++t) before[t + 1] = before[t] + hot[t];
        for (const i64 i : births_) first_[i] |= before[flat_.end[i]] > before[flat_.first[i]];
    }

    // plan.peaks._around: `offsets_` of the rest, by size, around what has a place. `again`: they are those of the round before, and
    // what meets nothing that has moved since then stays.
    void around(const std::vector<i64> &by_size, bool again) {
        std::vector<std::uint8_t> moved(alive_.size(), !again);
        auto put = [&](i64 i, i64 at) {
            if (again && offsets_[i] != at) std::fill(moved.begin() + flat_.first[i], moved.begin() + flat_.end[i], 1);
            offsets_[i] = at;
            shelf_.insert(at, at + flat_.size[i], flat_.first[i], flat_.end[i], i);
        };
        shelf_.clear();
        for (const i64 i : births_)
            if (places_[i] >= 0) put(i, places_[i]);
        for (const i64 i : by_size) {
            if (!flat_.size[i]) offsets_[i] = 0;
            if (!flat_.size[i] || places_[i] >= 0) continue;
            if (!std::memchr(moved.data() + flat_.first[i], 1, flat_.end[i] - flat_.first[i])) {
                put(i, offsets_[i]);
                continue;
            }
            Holes holes{flat_.alignment[i], 0, -1, 0, false};
            shelf_.overlapping(flat_.first[i], flat_.end[i],
                               [&](i64 bottom, i64 top, std::int32_t) { return holes.bar(bottom - flat_.size[i], top); });
            put(i, holes.answer()), work_ -= flat_.count;
        }
    }

    // Places for all that goes first, part by part in time; a part to which nothing was added keeps its places.
    bool solve(i64 aim) {
        std::vector<i64> part;
        i64 end = 0;
        bool fresh = false;
        for (const i64 i : births_) {
            if (!first_[i]) continue;
            if (!part.empty() && flat_.first[i] >= end) {
                if (fresh && !solve_part(part, aim)) return false;
                part.clear(), fresh = false;
            }
            part.push_back(i), end = std::max(end, flat_.end[i]), fresh |= places_[i] < 0;
        }
        return !fresh || solve_part(part, aim);
    }

    bool solve_part(const std::vector<i64> &part, i64 aim) {
        if (work_ <= 0) return false;
        work_ -= kMade * (i64)part.size();
        Rows rows;
        const i64 begin = flat_.first[part[0]];
        for (const i64 i : part)
            rows.add(flat_.size[i], flat_.alignment[i], -1, flat_.first[i] - begin, flat_.end[i] - begin);
        Cliques cliques(rows, grain_, kPeaks, std::size(kPeaks));
        std::vector<i64> found;
        std::optional<Backtrack> other;
        if (back_ && !other.emplace(cliques, aim).serves()) other.reset();
        bool fits = cliques.descend(aim, found, other ? 1 : kDescents, work_);
        if (!fits && other) {
            i64 tried = 0;
            fits = other->run(std::max<i64>(work_, 0) / other->cost(), &tried, found);
            work_ -= tried * other->cost(), went_back_ |= tried > 0;
        }
        for (std::size_t k = 0; k < part.size() && fits; ++k) places_[part[k]] = found[k];
        return fits;
    }

    void offer(Packer name) {
        i64 top = 0;
        for (i64 i = 0; i < flat_.count; ++i)
            if (flat_.size[i]) top = std::max(top, offsets_[i] + flat_.size[i]);
        if (height >= 0 && top >= height) return;
        height = top, packer = name, best_ = offsets_;
    }

    // greedy.order_by.
    std::vector<i64> order(Packer name) const {
        std::vector<std::pair<i64, i64>> key(flat_.count);
        for (i64 i = 0; i < flat_.count; ++i) {
            const i64 a = flat_.segment_of[i], z = flat_.segment_of[i + 1], size = flat_.size[i];
            const i64 first = a < z ? flat_.first[a] : 0, end = a < z ? flat_.end[z - 1] : 0, life = end - first;
            if (name == kSize) key[i] = {-size, -life};
            else key[i] = {a < z ? -most_in(alive_.data(), first, end) : 0, -size};
        }
        std::vector<i64> out(flat_.count);
        std::iota(out.begin(), out.end(), 0);
        std::stable_sort(out.begin(), out.end(), [&](i64 a, i64 b) { return key[a] < key[b]; });
        return out;
    }
};

}  // namespace

extern "C" {

// A plain problem with nothing fixed. `known`: layers of earlier placements, asked in turn. `work`: about how many numbers may be
// looked at. `back`: whether descents may go back. `found`: see Found.
void lowtide_replan(const Flat *flat, std::int64_t grain, std::int64_t work, std::int64_t back, const Layers *known,
                    std::int64_t many, std::int64_t *offsets, std::int64_t *found) {
    Replan anew(*flat, grain);
    if (!anew.again(known, many, offsets)) anew.run(work, back, offsets);
    found[kFoundHeight] = anew.height, found[kFoundBound] = anew.bound;
    found[kFoundPacker] = anew.packer, found[kFoundLayers] = anew.used;
}

void lowtide_layers(const Flat *flat, const std::int64_t *offsets, std::int64_t *order, std::int64_t *below_of,
                    std::int64_t *below) {
    layers_of(*flat, offsets, order, below_of, below);
}

}  // extern "C"
