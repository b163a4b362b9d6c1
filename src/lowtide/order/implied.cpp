// Orderings that a limit implies: the twin of order/implied.py. Comes after descent.cpp.

namespace {

constexpr int kRounds = 4;

struct Implied {
    EdgesPtr e;  // null: no order is within the limit
    i64 over = kNever, edges = 0, steps = 0;
};

struct Near {
    Set done;
    i64 alive;
};

// What is known of one node v: which nodes some set within the limit holds before it, and which it leaves out.
class Look {
  public:
    Set first, after;
    i64 least;

    Look(const Graph &g, const Edges &e, Implied &state, const std::vector<int> &ranked, int v, i64 limit)
        : first(g.none()), after(g.none()), g_(g), e_(e), state_(state), ranked_(ranked), v_(v), limit_(limit),
          free_(g.full()) {
        drop(free_, v);
        for (size_t w = 0; w < free_.size(); ++w) free_[w] &= ~(e.before[v][w] | e.behind[v][w]);
        Set cheapest;
        least = least_with(g.none(), g.none(), cheapest);
        start_ = {cheapest, alive_after(g, cheapest)};
        held_ = both(cheapest, free_), out_ = free_;
        for (size_t w = 0; w < out_.size(); ++w) out_[w] &= ~cheapest[w];
    }

    // Find the nodes that cannot run before v.
    void can_precede() {
        spread(ranked_, held_, after, e_.before, [&](const Near &near, const Set &group) {
            Set done = near.done;
            join(done, group);
            return done;
        }, [&](const Near &near) { join(held_, both(near.done, free_)); },
        [&](const Set &group, int u) {
            Set chosen;
            const i64 found = least_with(both(group, free_), g_.none(), chosen);
            if (found <= limit_) return join(held_, both(chosen, free_));
            state_.over = std::min(state_.over, found);
            Set more = e_.behind[u];
            put(more, u);
            join(after, both(more, free_));
        });
    }

    // Find the nodes that cannot run after v: the same, with nodes taken out of the cheapest set.
    void can_follow() {
        const std::vector<int> turned(ranked_.rbegin(), ranked_.rend());
        spread(turned, out_, first, e_.behind, [&](const Near &near, const Set &group) {
            Set done = near.done;
            for (size_t w = 0; w < done.size(); ++w) done[w] &= ~group[w];
            return done;
        }, [&](const Near &near) { leave_out(near.done); },
        [&](const Set &group, int u) {
            Set chosen;
            const i64 found = least_with(g_.none(), both(group, free_), chosen);
            if (found <= limit_) return leave_out(chosen);
            state_.over = std::min(state_.over, found);
            Set more = e_.before[u];
            put(more, u);
            join(first, both(more, free_));
        });
    }

  private:
    const Graph &g_;
    const Edges &e_;
    Implied &state_;
    const std::vector<int> &ranked_;
    int v_;
    i64 limit_;
    Set free_, held_, out_;
    Near start_;

    static Set both(const Set &s, const Set &t) {
        Set out = s;
        for (size_t w = 0; w < s.size(); ++w) out[w] &= t[w];
        return out;
    }

    void leave_out(const Set &done) {
        for (size_t w = 0; w < out_.size(); ++w) out_[w] |= free_[w] & ~done[w];
    }

    // Nodes are tried in groups, halved where dear; alone, a closure decides.
    template <class Change, class Fits, class Alone>
    void spread(const std::vector<int> &ranked, Set &shown, Set &barred, const std::vector<Set> &around, Change change,
                Fits fits, Alone alone) {
        Near grown = start_;
        bool moved = false;
        std::vector<std::vector<int>> groups(1);
        for (int u : ranked)
            if (has(free_, u) && !has(shown, u)) groups[0].push_back(u);
        while (!groups.empty()) {
            std::vector<int> group;
            for (int u : groups.back())
                if (!has(shown, u) && !has(barred, u)) group.push_back(u);
            groups.pop_back();
            if (group.empty()) continue;
            Set need = g_.none();
            for (int u : group) join(need, around[u]), put(need, u);
            Near near;
            bool fit = within_limit(grown, change(grown, need), near);
            if (!fit && moved) fit = within_limit(start_, change(start_, need), near);
            if (fit) {
                grown = std::move(near), moved = true;
                fits(grown);
            } else if (group.size() > 1) {
                const auto half = group.begin() + i64(group.size() / 2);
                groups.emplace_back(half, group.end());
                groups.emplace_back(group.begin(), half);
            } else {
                alone(need, group[0]);
            }
        }
    }

    bool within_limit(const Near &near, const Set &done, Near &found) {
        ++state_.steps;
        for (size_t w = 0; w < done.size(); ++w) state_.steps += __builtin_popcountll(near.done[w] ^ done[w]);
        const i64 alive = alive_between(g_, near.done, near.alive, done);
        if (alive + cost(g_, v_, done).hill > limit_) return false;
        found = {done, alive};
        return true;
    }

    // (least bytes alive while v runs; the set before it then) with `before` before v and `later` after it.
    i64 least_with(const Set &before, const Set &later, Set &chosen) {
        Set done = e_.before[v_], free = free_, some;
        join(done, before);
        for (size_t w = 0; w < free.size(); ++w) free[w] &= ~(before[w] | later[w]);
        some = done;
        join(some, free);
        i64 hill = g_.alloc[v_] + g_.extra[v_];
        for (int b : g_.begins[v_]) {
            bool there = false;
            for (int x : g_.makers[b]) there = there || (x != v_ && has(some, x));
            if (!there) hill += g_.size[b];
        }
        std::vector<std::pair<int, Set>> granted;  // begun, what must have run for it (empty: nothing, or in doubt)
        for (auto &p : g_.pairs[v_]) {
            bool possible = true, made = false;
            Set need = g_.none();
            for (int x : g_.held[p.read])
                if (x != v_) {
                    possible = possible && has(some, x);
                    if (has(free, x)) put(need, x);
                }
            for (int x : g_.makers[p.written])
                if (x != v_) made = true, possible = possible && !has(done, x);
            if (!possible) continue;
            auto at = std::find_if(granted.begin(), granted.end(), [&](auto &y) { return y.first == p.written; });
            const bool doubtful = at != granted.end() || made;
            if (at == granted.end()) at = granted.insert(at, {p.written, {}});
            at->second = doubtful ? g_.none() : need;
        }
        std::vector<Bonus> bonus;
        for (auto &x : granted)
            if (empty(x.second))
                hill -= g_.size[x.first];
            else
                bonus.push_back({x.second, g_.size[x.first]});
        std::vector<int> path;
        for (int x : ranked_)
            if (has(free, x)) path.push_back(x);
        chosen = lowest(g_, e_, done, path, state_.steps, bonus);
        state_.steps += g_.m / 8;
        for (auto &x : bonus)
            if (within(x.need, chosen)) hill -= x.nbytes;
        return alive_after(g_, chosen) + hill;
    }
};

// `e` with more predecessors (only direct edges are kept as such); null if that closes a cycle.
EdgesPtr with_edges(const Graph &g, const Edges &e, const std::vector<Set> &found) {
    auto out = std::make_shared<Edges>();
    out->pred = e.pred;
    for (int v = 0; v < g.n; ++v) join(out->pred[v], found[v]);
    out->after = turned(g, out->pred);
    const auto ranked = topological(g, *out);
    if (int(ranked.size()) < g.n) return nullptr;
    out->before.assign(g.n, g.none()), out->behind = out->before;
    for (int v : ranked) each(out->pred[v], [&](int p) { join(out->before[v], out->before[p]), put(out->before[v], p); });
    for (int v = 0; v < g.n; ++v) {
        Set far = g.none();
        each(out->pred[v], [&](int p) { join(far, out->before[p]); });
        for (size_t w = 0; w < far.size(); ++w) out->pred[v][w] &= ~far[w];
    }
    out->after = turned(g, out->pred);
    for (size_t k = ranked.size(); k-- > 0;) {
        const int v = ranked[k];
        each(out->after[v], [&](int s) { join(out->behind[v], out->behind[s]), put(out->behind[v], s); });
    }
    for (int v = 0; v < g.n; ++v)
        out->pred_list.push_back(members(out->pred[v])), out->succ.push_back(members(out->after[v]));
    return out;
}

void round_of(const Graph &g, Implied &state, i64 limit, i64 most) {
    const EdgesPtr e = state.e;
    std::vector<Set> found(g.n, g.none());
    std::vector<int> ranked;
    for (int v = 0; v < g.n; ++v) ranked.push_back(v);
    std::vector<i64> depth;
    for (int v = 0; v < g.n; ++v) depth.push_back(count(e->before[v]));
    std::stable_sort(ranked.begin(), ranked.end(), [&](int a, int b) { return depth[a] < depth[b]; });
    for (int v : ranked) {
        if (state.steps >= most) break;
        Look look(g, *e, state, ranked, v, limit);
        if (look.least > limit) {
            state.over = std::min(state.over, look.least);
            state.e = nullptr;
            return;
        }
        look.can_precede();
        look.can_follow();
        each(look.after, [&](int u) { put(found[u], v); });
        join(found[v], look.first);
    }
    i64 edges = 0;
    for (auto &x : found) edges += count(x);
    if (edges) state.edges += edges, state.e = with_edges(g, *e, found);
}

Implied implied(const Graph &g, EdgesPtr e, i64 limit, i64 most, Watch &watch) {
    Implied state;
    state.e = std::move(e);
    for (int k = 0; k < kRounds; ++k) {
        const i64 before = state.edges;
        round_of(g, state, limit, most);
        if (!state.e || state.edges == before || state.steps >= most || watch.ask(state.steps)) break;
    }
    return state;
}

}  // namespace
