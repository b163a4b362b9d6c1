// The cut bound: the twin of order/bounds.py. Comes after masks.cpp; works on lists, since its graphs may be large.

namespace {

constexpr i64 kLooks = 8;  // of a flow, to a step

enum Label : char { kFree, kBefore, kBehind };

struct Lists {
    const Flat &f;
    int n, m;
    std::vector<std::vector<int>> succs, holders;

    explicit Lists(const Flat &flat) : f(flat), n(int(flat.n)), m(int(flat.m)), succs(flat.n), holders(flat.m) {
        for (int v = 0; v < n; ++v) {
            for (i64 k = f.preds_of[v]; k < f.preds_of[v + 1]; ++k) succs[f.preds[k]].push_back(v);
            for (i64 k = f.holds_of[v]; k < f.holds_of[v + 1]; ++k) holders[f.holds[k]].push_back(v);
        }
    }

    template <class F>
    bool all_makers(int b, F f_) const {
        for (i64 k = f.makers_of[b]; k < f.makers_of[b + 1]; ++k)
            if (!f_(int(f.makers[k]))) return false;
        return true;
    }
};

// Flow from supplies through the free nodes they need (and those nodes' free ancestors) to what these begin.
class Closure {
  public:
    std::vector<i64> left;

    Closure(const Lists &g, const std::vector<char> &label)
        : g_(g), label_(label), room_(g.n + g.m, -1), inflow_(g.n + g.m), came_(g.n + g.m, kNone) {}

    void supply(i64 nbytes, std::vector<int> needs, int maker = -1) {
        if (maker >= 0 && label_[maker] == kFree) {
            room_[maker] = room(maker) - nbytes;
            inflow_[maker].push_back({~int(left.size()), nbytes});
            nbytes = 0;
        }
        left.push_back(nbytes), needs_.push_back(std::move(needs));
    }

    i64 push(i64 most) {
        i64 used = 0;
        back_.assign(left.size(), kNone);
        for (size_t c = 0; c < left.size(); ++c)
            while (left[c] && used < most) {
                const bool found = augment(int(c));
                used += i64(queue_.size());
                for (int x : queue_) seen(x) = kNone;
                if (!found) break;
            }
        return used;
    }

  private:
    static constexpr int kNone = INT32_MAX;
    const Lists &g_;
    const std::vector<char> &label_;
    std::vector<i64> room_;
    std::vector<std::vector<std::pair<int, i64>>> inflow_;
    std::vector<std::vector<int>> needs_;
    std::vector<int> came_, back_, queue_;

    // Nodes are >= 0, supply c is ~c, a storage that several nodes may begin is n + b.
    int &seen(int x) { return x < 0 ? back_[~x] : came_[x]; }

    i64 &room(int x) {
        if (room_[x] < 0) room_[x] = x < g_.n ? g_.f.alloc[x] : g_.f.size[x - g_.n];
        return room_[x];
    }

    void visit(int y, int from) {
        if (seen(y) == kNone) seen(y) = from, queue_.push_back(y);
    }

    bool augment(int c) {
        queue_.clear();
        visit(~c, ~c);
        for (size_t k = 0; k < queue_.size(); ++k) {
            const int x = queue_[k];
            if (x < 0) {
                for (int y : needs_[~x]) visit(y, x);
                continue;
            }
            if (room(x)) {
                carry(x, c);
                return true;
            }
            for (auto &y : inflow_[x]) visit(y.first, x);
            if (x >= g_.n) continue;
            for (i64 j = g_.f.preds_of[x]; j < g_.f.preds_of[x + 1]; ++j)
                if (label_[g_.f.preds[j]] == kFree) visit(int(g_.f.preds[j]), x);
            for (i64 j = g_.f.shared_of[x]; j < g_.f.shared_of[x + 1]; ++j) {
                const int b = int(g_.f.shared[j]);
                if (g_.all_makers(b, [&](int p) { return label_[p] != kBefore; })) visit(g_.n + b, x);
            }
        }
        return false;
    }

    i64 *fed(int y, int x) {  // how much x feeds y, or null
        if (y < 0) return nullptr;
        for (auto &z : inflow_[y])
            if (z.first == x) return &z.second;
        return nullptr;
    }

    void carry(int end, int c) {
        i64 amount = std::min(room(end), left[c]);
        for (int x = end; x != ~c; x = seen(x))
            if (const i64 *against = fed(seen(x), x)) amount = std::min(amount, *against);
        room_[end] -= amount, left[c] -= amount;
        for (int x = end; x != ~c; x = seen(x)) {
            const int y = seen(x);
            if (i64 *against = fed(y, x)) {
                *against -= amount;
                if (!*against) {
                    auto &from = inflow_[y];
                    from.erase(std::find_if(from.begin(), from.end(), [&](auto &z) { return z.first == x; }));
                }
            } else if (i64 *along = fed(x, y)) {
                *along += amount;
            } else {
                inflow_[x].push_back({y, amount});
            }
        }
    }
};

void mark(const Lists &g, int v, std::vector<char> &label) {
    std::fill(label.begin(), label.end(), kFree);
    std::vector<int> stack{v};
    while (!stack.empty()) {
        const int x = stack.back();
        stack.pop_back();
        for (i64 k = g.f.preds_of[x]; k < g.f.preds_of[x + 1]; ++k)
            if (label[g.f.preds[k]] != kBefore) label[g.f.preds[k]] = kBefore, stack.push_back(int(g.f.preds[k]));
    }
    stack.push_back(v);
    while (!stack.empty()) {
        const int x = stack.back();
        stack.pop_back();
        for (int s : g.succs[x])
            if (label[s] != kBehind) label[s] = kBehind, stack.push_back(s);
    }
    label[v] = kBehind;
}

// Bytes that v adds while it runs; savings that hang on free nodes having run become supplies.
i64 running(const Lists &g, int v, const std::vector<char> &label, Closure &net) {
    const Flat &f = g.f;
    i64 hill = f.alloc[v] + f.workspace[v];
    for (i64 k = f.shared_of[v]; k < f.shared_of[v + 1]; ++k)
        if (g.all_makers(int(f.shared[k]), [&](int p) { return label[p] == kBehind; })) hill += f.size[f.shared[k]];
    std::vector<std::pair<int, std::vector<int>>> ready;  // begun, what must have run (none: in doubt, granted)
    for (i64 k = f.pairs_of[v]; k < f.pairs_of[v + 1]; ++k) {
        const int r = int(f.pairs[2 * k]), w = int(f.pairs[2 * k + 1]);
        std::vector<int> others;
        bool possible = g.all_makers(w, [&](int p) { return label[p] != kBefore; });
        for (int x : g.holders[r])
            if (x != v && label[x] != kBefore) others.push_back(x), possible = possible && label[x] != kBehind;
        if (!possible) continue;
        auto at = std::find_if(ready.begin(), ready.end(), [&](auto &y) { return y.first == w; });
        const bool doubtful = at != ready.end() || others.empty() || f.makers_of[w + 1] - f.makers_of[w] > 1;
        if (at == ready.end()) at = ready.insert(at, {w, {}});
        at->second = doubtful ? std::vector<int>() : others;
    }
    for (auto &x : ready)
        if (x.second.empty())
            hill -= f.size[x.first];
        else
            net.supply(f.size[x.first], x.second);
    return hill;
}

// (at least so many bytes are alive while v runs, in every order; steps used)
std::pair<i64, i64> least_during(const Lists &g, int v, i64 most, std::vector<char> &label) {
    const Flat &f = g.f;
    mark(g, v, label);
    Closure net(g, label);
    i64 alive = 0;
    for (int b = 0; b < g.m; ++b) {
        const i64 made = f.makers_of[b + 1] - f.makers_of[b];
        const bool begun = !made || !g.all_makers(b, [&](int p) { return label[p] != kBefore; });
        std::vector<int> open;
        bool ends = !f.outlives[b];
        for (int x : g.holders[b])
            if (label[x] != kBefore) open.push_back(x), ends = ends && label[x] != kBehind;
        if (begun && (f.outlives[b] || !open.empty())) alive += f.size[b];
        if (ends && !open.empty()) net.supply(f.size[b], std::move(open), made == 1 ? int(f.makers[f.makers_of[b]]) : -1);
    }
    const i64 hill = running(g, v, label, net);
    const i64 work = 2 * i64(g.n) + net.push(kLooks * most);
    for (i64 x : net.left) alive -= x;
    return {alive + hill, 1 + work / kLooks};
}

}  // namespace

extern "C" {

// The greatest least_during of the nodes looked at, if above `floor`. answer[0..2]: bytes, steps, node (or -1). known[v]:
// what an earlier call found for v, or -1.
void lowtide_cut(const Flat *f, const std::int64_t *order, const std::int64_t *live, std::int64_t floor,
                 std::int64_t most, std::int64_t *known, std::int64_t *answer) {
    const Lists g(*f);
    std::vector<int> steps(g.n);
    for (int t = 0; t < g.n; ++t) steps[t] = t;
    std::stable_sort(steps.begin(), steps.end(), [&](int a, int b) { return live[a] > live[b]; });
    std::vector<char> label(g.n);
    i64 best = floor, used = 0, at = -1;
    for (int t : steps) {
        if (live[t] <= best || used >= most) break;
        const int v = int(order[t]);
        i64 least = known[v];
        if (least < 0) {
            const auto found = least_during(g, v, most - used, label);
            least = found.first, used += found.second;
            if (used < most) known[v] = least;
        }
        if (least > best) best = least, at = v;
    }
    answer[0] = best, answer[1] = used, answer[2] = at;
}

}  // extern "C"
