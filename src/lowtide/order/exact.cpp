// Decisions at chosen limits until the bounds meet or the steps end: the twin of order/exact.py. Comes after implied.cpp.

namespace {

constexpr i64 kFirstSlice = 500, kLeast = 2000, kHard = 400, kEffort = 6;
constexpr i64 kShares[] = {0, 8, 4};

class Bracket {
  public:
    std::vector<int> order;
    i64 peak, bound, steps = 0;

    Bracket(const Flat &f, std::vector<int> start, i64 known, i64 most, Watch &watch)
        : order(std::move(start)), bound(known), g_(f), e_(edges_of(g_, f)), most_(most), watch_(watch),
          failed_(std::make_shared<Failed>()) {
        peak = worth(g_, order);
    }

    void run() {
        tell();
        for (i64 turn = kFirstSlice; !closed() && steps < most_ && !watch_.stop; turn *= 2)
            for (i64 share : kShares) {
                if (closed() || steps >= most_ || watch_.stop) break;
                ask(share, std::min(turn, most_ - steps));
            }
    }

  private:
    Graph g_;
    EdgesPtr e_;
    i64 most_, stride_ = 0, drop_ = 0;
    Watch &watch_;
    std::shared_ptr<Failed> failed_;
    std::map<i64, std::unique_ptr<Decision>> decisions_;
    std::map<i64, EdgesPtr> tight_;
    std::map<i64, i64> tight_over_;

    bool closed() const { return peak <= bound; }

    void tell() { watch_.steps = steps, watch_.peak = peak, watch_.bound = bound; }

    // Whether the limit at `share` eighths of the bracket can be kept, again while answers come in time.
    void ask(i64 share, i64 left) {
        while (!closed() && left > 0 && !watch_.stop) {
            const i64 limit = limit_at(share);
            auto &at = decisions_[limit];
            if (!at)
                at = std::make_unique<Decision>(g_, e_, limit, limit == peak - 1 ? failed_ : std::make_shared<Failed>(),
                                                share == 8 ? rank() : std::vector<int>());
            else if (!tight_.count(limit) && at->steps > kHard * g_.n)
                at = tightened(limit, *at);
            Decision &decision = *at;
            const i64 before = decision.steps;
            const bool known = decision.run(left, watch_);
            const i64 used = decision.steps - before;
            steps += used, left -= used;
            if (!known) {
                if (share == 8) drop_ /= 2;
                return tell();
            }
            if (decision.found) {
                order = decision.order, peak = worth(g_, order), stride_ = 0;
                if (share == 8) drop_ = std::min(std::max(2 * drop_, (peak - bound) / 64), (peak - bound) / 4);
            } else {
                drop_ = 0;
                bound = std::max(bound, std::min(decision.over, peak));
                if (!share) stride_ = std::min(std::max(2 * stride_, (peak - bound) / 256), (peak - bound) / 8);
            }
            for (auto it = decisions_.begin(); it != decisions_.end();)
                it = it->first < bound || it->first >= peak ? decisions_.erase(it) : std::next(it);
            tell();
        }
    }

    // Where the best order has each node: a better order is looked for near it.
    std::vector<int> rank() const {
        std::vector<int> out(g_.n);
        for (int t = 0; t < g_.n; ++t) out[order[t]] = t;
        return out;
    }

    // The limit to ask for: one that is being worked on already, where it is near the one wanted.
    i64 limit_at(i64 share) const {
        const i64 width = peak - bound;
        if (share == 8) return peak - 1 - std::min(drop_, width - 1);
        const i64 wanted = bound + (share ? width * share / 8 : std::min(stride_, width - 1));
        i64 best = wanted, off = width / 16 + 1;
        for (auto &d : decisions_)
            if (d.first < peak - 1 && std::abs(d.first - wanted) < off) best = d.first, off = std::abs(d.first - wanted);
        return best;
    }

    std::unique_ptr<Decision> tightened(i64 limit, Decision &hard) {
        auto above = tight_.upper_bound(limit);
        const bool some = above != tight_.end();
        const i64 most = std::max(kLeast, std::min((most_ - steps) / 3, kEffort * hard.steps));
        Implied found = implied(g_, some ? above->second : e_, limit, most, watch_);
        steps += found.steps;
        auto decision = std::make_unique<Decision>(g_, found.e ? found.e : e_, limit, hard.failed, hard.guide);
        decision->over = some ? std::min(found.over, tight_over_[above->first]) : found.over;
        decision->finished = !found.e;
        tight_[limit] = decision->e, tight_over_[limit] = decision->over;
        return decision;
    }
};

}  // namespace

extern "C" {

// Narrow the bracket around the least peak. `order` is the start and becomes the best order; answer[0..2]: peak, bound,
// steps. `known`: a proved bound; `every`: steps between two calls of `tell`.
void lowtide_close(const Flat *f, std::int64_t *order, std::int64_t known, std::int64_t most, Tell tell,
                   std::int64_t every, std::int64_t *answer) {
    Watch watch{tell, every, every};
    Bracket bracket(*f, std::vector<int>(order, order + f->n), known, most, watch);
    bracket.run();
    std::copy(bracket.order.begin(), bracket.order.end(), order);
    answer[0] = bracket.peak, answer[1] = bracket.bound, answer[2] = bracket.steps;
}

}  // extern "C"
