// The decision at one limit, from both ends: the twin of order/descent.py. Comes after masks.cpp.

namespace {

// Ends the search from outside: by the clock, or because the caller says so. Never part of a decision.
struct Watch {
    Tell tell;
    i64 every, due = 0, steps = 0, peak = 0, bound = 0;
    bool stop = false;

    bool ask(i64 more) {
        if (!stop && steps + more >= due) {
            due = steps + more + every;
            if (tell && !tell(steps + more, peak, bound)) stop = true;
        }
        return stop;
    }
};

struct Failed {
    Sets side[2];
};

struct Ready {
    int v;
    i64 hill, net;
};

struct Way {
    Set done;
    i64 alive;
    std::vector<int> path;
};

struct Level {
    Set done;
    i64 alive;
    std::vector<Ready> costs;  // ascending nodes
    std::vector<int> path;
    std::vector<Way> ways;

    Level copy() const { return {done, alive, costs, {}, {}}; }

    Ready *find(int v) {
        auto at = std::lower_bound(costs.begin(), costs.end(), v, [](const Ready &r, int x) { return r.v < x; });
        return at != costs.end() && at->v == v ? &*at : nullptr;
    }

    void set(int v, Cost c) {
        auto at = std::lower_bound(costs.begin(), costs.end(), v, [](const Ready &r, int x) { return r.v < x; });
        if (at != costs.end() && at->v == v)
            at->hill = c.hill, at->net = c.net;
        else
            costs.insert(at, {v, c.hill, c.net});
    }

    void take(int v) {
        costs.erase(std::lower_bound(costs.begin(), costs.end(), v, [](const Ready &r, int x) { return r.v < x; }));
    }
};

class Descent {
  public:
    i64 over = kNever, steps = 0;
    bool finished = false, found = false;
    std::vector<int> path;
    std::vector<Level> stack;

    Descent(const Graph &g, EdgesPtr e, i64 limit, const Set &low, const Set &high, bool backward, Sets &failed,
            const std::vector<int> &guide)
        : g_(g), e_(std::move(e)), limit_(limit), back_(backward), failed_(failed), guide_(guide),
          pred_(backward ? e_->after : e_->pred), succ_(backward ? e_->pred_list : e_->succ), full_(g.full()), touched_(g.none()) {
        Set start = backward ? without(full_, high) : low;
        goal_ = backward ? without(full_, low) : high;
        const i64 alive = alive_after(g_, backward ? high : low);
        if (alive > limit_) {
            over = alive, finished = true;
            return;
        }
        Level level{start, alive, {}, {}, {}};
        std::vector<int> look;
        each(without(goal_, start), [&](int v) {
            if (within(pred_[v], start)) level.set(v, price(v, start)), look.push_back(v);
        });
        settle(level, look);
        enter(std::move(level));
    }

    Set root() const {
        Set done = stack.empty() ? (back_ ? without(full_, goal_) : g_.none()) : stack[0].done;
        return back_ ? without(full_, done) : done;
    }

    bool run(i64 most, Watch &watch) {
        const i64 end = steps + most, start = steps;
        while (!finished && steps < end && !watch.ask(steps - start)) {
            if (stack.empty()) {
                finished = true;
                break;
            }
            Level &top = stack.back();
            if (!top.ways.empty()) {
                Way way = std::move(top.ways.back());
                top.ways.pop_back();
                if (!failed_.count(way.done)) enter(follow(top, way.path));
            } else {
                failed_.insert(top.done);
                stack.pop_back();
                ++steps;
            }
        }
        return finished;
    }

  private:
    const Graph &g_;
    EdgesPtr e_;
    i64 limit_;
    bool back_;
    Sets &failed_;
    const std::vector<int> &guide_;
    const std::vector<Set> &pred_;
    const std::vector<std::vector<int>> &succ_;
    Set full_, goal_, touched_;

    static Set without(const Set &s, const Set &t) {
        Set out = s;
        for (size_t w = 0; w < s.size(); ++w) out[w] &= ~t[w];
        return out;
    }

    void enter(Level level) {
        for (;;) {
            size_t at = stack.size();
            while (at && stack[at - 1].alive >= level.alive) --at;
            if (at < stack.size()) level = replace(at, std::move(level));
            stack.push_back(std::move(level));
            Level &top = stack.back();
            if (top.done == goal_) {
                for (auto &x : stack) path.insert(path.end(), x.path.begin(), x.path.end());
                found = finished = true;
                return;
            }
            if (failed_.count(top.done)) return;
            if (!expand(top, level)) return;
        }
    }

    Level replace(size_t at, Level level) {
        Level base = std::move(stack[at]);
        std::vector<int> way;
        for (size_t k = at + 1; k < stack.size(); ++k) way.insert(way.end(), stack[k].path.begin(), stack[k].path.end());
        way.insert(way.end(), level.path.begin(), level.path.end());
        stack.resize(at);
        std::vector<int> whole = base.path;
        if (way.size() > 2) {
            const Set target = cheapest(base.done, level.done, way);
            if (target != level.done) {
                std::vector<int> kept;
                for (int v : way)
                    if (has(target, v)) kept.push_back(v);
                Level cheaper = follow(base, kept);
                if (cheaper.alive < level.alive) {
                    whole.insert(whole.end(), cheaper.path.begin(), cheaper.path.end());
                    cheaper.path = std::move(whole);
                    std::vector<int> look;
                    for (auto &r : cheaper.costs) look.push_back(r.v);
                    settle(cheaper, look);
                    return cheaper;
                }
            }
        }
        whole.insert(whole.end(), way.begin(), way.end());
        level.path = std::move(whole);
        return level;
    }

    Set cheapest(const Set &below, const Set &above, const std::vector<int> &way) {
        if (!back_) return lowest(g_, *e_, below, way, steps);
        const std::vector<int> turned(way.rbegin(), way.rend());
        return without(full_, lowest(g_, *e_, without(full_, above), turned, steps));
    }

    Level follow(const Level &base, const std::vector<int> &way) {
        Level level = base.copy();
        for (int v : way) run_node(level, v);
        return level;
    }

    std::vector<int> run_node(Level &level, int v) {
        level.alive += level.find(v)->net;
        level.take(v);
        std::vector<int> changed = changes(v, level.done, level);
        put(level.done, v);
        for (int x : changed) level.set(x, price(x, level.done));
        level.path.push_back(v);
        return changed;
    }

    // Nodes that become ready, or change their cost, when v runs after `before`.
    std::vector<int> changes(int v, const Set &before, Level &level) {
        steps += i64(g_.dies[v].size()) / 2;
        std::vector<int> out;
        for (int s : succ_[v]) {
            if (!has(goal_, s)) continue;
            bool ready = true;
            for (size_t w = 0; ready && w < before.size(); ++w) {
                u64 missing = pred_[s][w] & ~before[w];
                if (w == size_t(v >> 6)) missing &= ~(u64(1) << (v & 63));
                ready = !missing;
            }
            if (ready) out.push_back(s);
        }
        std::fill(touched_.begin(), touched_.end(), 0);
        for (int b : g_.dies[v]) {
            if (back_) {
                bool first = true;
                for (int x : g_.held[b])
                    if (x != v && has(before, x)) {
                        first = false;
                        break;
                    }
                if (first)
                    for (int x : g_.held[b]) put(touched_, x);
            } else {
                int left = 0, last = -1;
                for (int x : g_.held[b])
                    if (x != v && !has(before, x)) {
                        last = x;
                        if (++left > 1) break;
                    }
                if (left == 1) put(touched_, last);
            }
        }
        for (int b : g_.begins[v])
            for (int x : g_.makers[b]) put(touched_, x);
        for (const Ready &r : level.costs)
            if (r.v != v && has(touched_, r.v)) out.push_back(r.v);
        return out;
    }

    Cost price(int v, const Set &done) {
        steps += 1 + i64(g_.dies[v].size()) / 8;
        const bool back = back_;
        const Cost c = cost(g_, v, [&](int x) { return has(done, x) != back; });
        return back ? Cost{c.hill - c.net, -c.net} : c;
    }

    // Run whatever fits and adds nothing, until nothing does; only `look` can have become such a node.
    void settle(Level &level, std::vector<int> look) {
        std::vector<int> shut;
        while (!look.empty()) {
            const int v = look.back();
            look.pop_back();
            const Ready *entry = level.find(v);
            if (!entry || entry->net > 0) continue;
            if (level.alive + entry->hill > limit_) {
                shut.push_back(v);
                continue;
            }
            const bool frees = entry->net < 0;
            for (int x : run_node(level, v)) look.push_back(x);
            if (frees) look.insert(look.end(), shut.begin(), shut.end()), shut.clear();
        }
    }

    // Find the ways on from `level`; true if one of them leaves no more alive: it stands in `better`, to take its place.
    bool expand(Level &level, Level &better) {
        std::vector<Way> ways;
        Sets seen;
        const i64 room = limit_ - level.alive;
        i64 above = kNever;
        steps += 1 + i64(level.costs.size()) / 4;
        for (const Ready entry : level.costs) {
            const int v = entry.v;
            if (entry.hill > room) {
                above = std::min(above, entry.hill);
                continue;
            }
            Way way{level.done, level.alive + entry.net, {v}};
            put(way.done, v);
            const std::vector<int> changed = changes(v, level.done, level);
            bool free = false;
            for (int x : changed)
                if (price(x, way.done).net <= 0) {
                    free = true;
                    break;
                }
            if (free) {
                Level further = level.copy();
                settle(further, run_node(further, v));
                if (further.alive <= level.alive) {
                    over = std::min(over, above + level.alive);
                    better = std::move(further);
                    return true;
                }
                way = {further.done, further.alive, further.path};
                steps += i64(level.costs.size()) / 8;
            }
            if (!failed_.count(way.done) && seen.insert(way.done).second) ways.push_back(std::move(way));
        }
        over = std::min(over, above + level.alive);
        std::sort(ways.begin(), ways.end(), [&](const Way &a, const Way &b) {
            if (!guide_.empty()) return (guide_[a.path[0]] > guide_[b.path[0]]) != back_;
            return a.alive != b.alive ? a.alive > b.alive : smaller(a.done, b.done);
        });
        level.ways = std::move(ways);
        return false;
    }
};

// Is there an order with a peak of at most `limit`? Both directions in turn, each narrowing the other.
struct Decision {
    const Graph &g;
    EdgesPtr e;
    i64 limit, over = kNever, steps = 0;
    std::shared_ptr<Failed> failed;
    std::vector<int> guide;
    Set low, high;
    std::vector<int> prefix, suffix, order;
    bool finished = false, found = false;
    std::unique_ptr<Descent> sides[2];

    Decision(const Graph &graph, EdgesPtr edges, i64 most, std::shared_ptr<Failed> known,
             std::vector<int> rank)
        : g(graph), e(std::move(edges)), limit(most), failed(std::move(known)), guide(std::move(rank)),
          low(graph.none()), high(graph.full()) {}

    bool run(i64 most, Watch &watch) {
        const i64 end = steps + most, start = steps;
        i64 turn = 8 * i64(g.n);
        while (!finished && steps < end && !watch.stop) {
            for (int side : {0, 1})
                if (!finished) {
                    const i64 base = watch.steps;
                    watch.steps += steps - start;
                    advance(side, std::min(turn, std::max(i64(1), end - steps)), watch);
                    watch.steps = base;
                }
            turn *= 2;
        }
        return finished;
    }

  private:
    void advance(int side, i64 most, Watch &watch) {
        i64 before = 0;
        if (!sides[side])
            sides[side] = std::make_unique<Descent>(g, e, limit, low, high, side == 1, failed->side[side], guide);
        else
            before = sides[side]->steps;
        Descent &search = *sides[side];
        const bool known = search.run(most, watch);
        steps += search.steps - before + 1;
        over = std::min(over, search.over);
        if (known) {
            finished = true;
            if (search.found) {
                std::vector<int> middle = search.path;
                if (side) std::reverse(middle.begin(), middle.end());
                order = prefix;
                order.insert(order.end(), middle.begin(), middle.end());
                order.insert(order.end(), suffix.begin(), suffix.end());
                found = true;
            }
            return;
        }
        if (search.stack.empty() || search.stack[0].path.empty()) return;
        std::vector<int> path = std::move(search.stack[0].path);
        search.stack[0].path.clear();
        if (side) {
            high = search.root();
            std::reverse(path.begin(), path.end());
            path.insert(path.end(), suffix.begin(), suffix.end());
            suffix = std::move(path);
        } else {
            low = search.root();
            prefix.insert(prefix.end(), path.begin(), path.end());
        }
        sides[1 - side].reset();
    }
};

}  // namespace
