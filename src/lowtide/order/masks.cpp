// Graphs as bit sets, the cost of a step, the cheapest set between two sets: the twin of order/masks.py, step for step.
// Plain C interface, no Python.h. The other sources of this folder are compiled after it, in one piece with it; tests
// compare every answer and every count of steps with the twin in Python.

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

extern "C" {

// memory.flat.Flat; rows of lists stand one after the other, row i in [x_of[i], x_of[i + 1])
struct Flat {
    std::int64_t n, m, base;
    const std::int64_t *preds_of, *preds, *holds_of, *holds, *makers_of, *makers, *shared_of, *shared;
    const std::int64_t *pairs_of, *pairs;  // dying, begun, dying, begun, ...
    const std::int64_t *size, *outlives, *alloc, *workspace;
};

// Told the steps used, the least peak and the bound now and then; 0 ends the search.
typedef std::int64_t (*Tell)(std::int64_t, std::int64_t, std::int64_t);

}  // extern "C"

namespace {

using i64 = std::int64_t;
using u64 = std::uint64_t;

constexpr i64 kNever = INT64_MAX / 4;

// ---- sets -------------------------------------------------------------------------------------------------------

using Set = std::vector<u64>;  // of nodes, as many words as the graph needs

bool has(const Set &s, int v) { return s[v >> 6] >> (v & 63) & 1; }
void put(Set &s, int v) { s[v >> 6] |= u64(1) << (v & 63); }
void drop(Set &s, int v) { s[v >> 6] &= ~(u64(1) << (v & 63)); }

void join(Set &s, const Set &t) {
    for (size_t w = 0; w < s.size(); ++w) s[w] |= t[w];
}

bool within(const Set &s, const Set &t) {
    for (size_t w = 0; w < s.size(); ++w)
        if (s[w] & ~t[w]) return false;
    return true;
}

i64 count(const Set &s) {
    i64 out = 0;
    for (u64 w : s) out += __builtin_popcountll(w);
    return out;
}

bool empty(const Set &s) {
    for (u64 w : s)
        if (w) return false;
    return true;
}

// As numbers: the highest member decides.
bool smaller(const Set &s, const Set &t) {
    for (size_t w = s.size(); w-- > 0;)
        if (s[w] != t[w]) return s[w] < t[w];
    return false;
}

template <class F>
void each(const Set &s, F f) {
    for (size_t w = 0; w < s.size(); ++w)
        for (u64 left = s[w]; left; left &= left - 1) f(int(w * 64) + __builtin_ctzll(left));
}

std::vector<int> members(const Set &s) {
    std::vector<int> out;
    each(s, [&](int v) { out.push_back(v); });
    return out;
}

struct Hash {
    size_t operator()(const Set &s) const {
        u64 h = 0x9E3779B97F4A7C15ull;
        for (u64 w : s) h = (h ^ w) * 0xD6E8FEB86659FD93ull, h ^= h >> 32;
        return h;
    }
};

using Sets = std::unordered_set<Set, Hash>;

// ---- the graph --------------------------------------------------------------------------------------------------

struct Pair {
    int read, written;
};

struct Graph {  // what does not depend on edges
    int n, m, words;
    i64 base;
    std::vector<i64> size, alloc, extra;
    std::vector<char> outlives;
    std::vector<std::vector<int>> held, makers, holds, dies, begins;
    std::vector<std::vector<Pair>> pairs;

    explicit Graph(const Flat &f) : n(f.n), m(f.m), words((f.n + 63) / 64), base(f.base), held(f.m), makers(f.m) {
        size.assign(f.size, f.size + m), alloc.assign(f.alloc, f.alloc + n), extra.assign(f.workspace, f.workspace + n);
        outlives.assign(f.outlives, f.outlives + m);
        holds.resize(n), dies.resize(n), begins.resize(n), pairs.resize(n);
        for (int b = 0; b < m; ++b) makers[b].assign(f.makers + f.makers_of[b], f.makers + f.makers_of[b + 1]);
        for (int v = 0; v < n; ++v) {
            begins[v].assign(f.shared + f.shared_of[v], f.shared + f.shared_of[v + 1]);
            for (i64 k = f.holds_of[v]; k < f.holds_of[v + 1]; ++k) {
                const int b = f.holds[k];
                holds[v].push_back(b), held[b].push_back(v);
                if (!outlives[b]) dies[v].push_back(b);
            }
            for (i64 k = f.pairs_of[v]; k < f.pairs_of[v + 1]; ++k)
                if (!outlives[f.pairs[2 * k]]) pairs[v].push_back({int(f.pairs[2 * k]), int(f.pairs[2 * k + 1])});
        }
    }

    Set none() const { return Set(words); }

    Set full() const {
        Set out(words);
        for (int v = 0; v < n; ++v) put(out, v);
        return out;
    }
};

struct Edges {
    std::vector<Set> pred, after, before, behind;
    std::vector<std::vector<int>> pred_list, succ;
};

using EdgesPtr = std::shared_ptr<const Edges>;

std::vector<Set> turned(const Graph &g, const std::vector<Set> &pred) {
    std::vector<Set> out(g.n, g.none());
    for (int v = 0; v < g.n; ++v) each(pred[v], [&](int p) { put(out[p], v); });
    return out;
}

// Nodes in some topological order; fewer than there are nodes if there is a cycle.
std::vector<int> topological(const Graph &g, const Edges &e) {
    std::vector<i64> waiting(g.n);
    std::vector<int> out;
    for (int v = 0; v < g.n; ++v)
        if (!(waiting[v] = count(e.pred[v]))) out.push_back(v);
    for (size_t k = 0; k < out.size(); ++k)
        each(e.after[out[k]], [&](int s) {
            if (!--waiting[s]) out.push_back(s);
        });
    return out;
}

EdgesPtr edges_of(const Graph &g, const Flat &f) {
    auto e = std::make_shared<Edges>();
    e->pred.assign(g.n, g.none()), e->pred_list.resize(g.n), e->succ.resize(g.n);
    e->before = e->behind = e->pred;
    for (int v = 0; v < g.n; ++v)
        for (i64 k = f.preds_of[v]; k < f.preds_of[v + 1]; ++k) {
            const int p = f.preds[k];
            put(e->pred[v], p), e->pred_list[v].push_back(p), e->succ[p].push_back(v);
        }
    e->after = turned(g, e->pred);
    const auto ranked = topological(g, *e);
    for (int v : ranked)
        for (int p : e->pred_list[v]) join(e->before[v], e->before[p]), put(e->before[v], p);
    for (size_t k = ranked.size(); k-- > 0;) {
        const int v = ranked[k];
        for (int s : e->succ[v]) join(e->behind[v], e->behind[s]), put(e->behind[v], s);
    }
    return e;
}

// ---- costs ------------------------------------------------------------------------------------------------------

// Most bytes that in-place pairs, all possible now, save together: largest first, along augmenting paths.
i64 saved_bytes(const std::vector<Pair> &possible, const std::vector<i64> &size) {
    std::vector<int> wanted;
    for (auto &p : possible)
        if (std::find(wanted.begin(), wanted.end(), p.written) == wanted.end()) wanted.push_back(p.written);
    if (wanted.size() == 1) return size[wanted[0]];
    std::sort(wanted.begin(), wanted.end(), [&](int a, int b) { return size[a] != size[b] ? size[a] > size[b] : a < b; });
    std::map<int, int> holder;
    i64 total = 0;
    for (int w : wanted) {
        std::map<int, int> asked;
        std::vector<int> queue{w};
        int free = -1;
        for (size_t k = 0; k < queue.size() && free < 0; ++k)
            for (auto &p : possible)
                if (p.written == queue[k] && asked.emplace(p.read, p.written).second) {
                    auto at = holder.find(p.read);
                    if (at == holder.end()) {
                        free = p.read;
                        break;
                    }
                    queue.push_back(at->second);
                }
        if (free < 0) continue;
        total += size[w];
        for (int r = free;;) {
            const int who = asked[r];
            int next = -1;
            for (auto &h : holder)
                if (h.second == who) next = h.first;
            holder[r] = who;
            if (who == w) break;
            r = next;
        }
    }
    return total;
}

struct Cost {
    i64 hill, net;
};

// (bytes above the present while v runs, bytes above the present once it has run), once the nodes x with done(x) ran.
template <class Done>
Cost cost(const Graph &g, int v, Done done) {
    i64 begun = g.alloc[v];
    for (int b : g.begins[v]) {
        bool there = false;
        for (int x : g.makers[b]) there = there || (x != v && done(x));
        if (!there) begun += g.size[b];
    }
    i64 hill = begun + g.extra[v];
    for (int b : g.dies[v]) {
        bool last = true;
        for (int x : g.held[b])
            if (x != v && !done(x)) {
                last = false;
                break;
            }
        if (last) begun -= g.size[b];
    }
    if (!g.pairs[v].empty()) {
        std::vector<Pair> possible;
        for (auto &p : g.pairs[v]) {
            bool ends = true;
            for (int x : g.held[p.read]) ends = ends && (x == v || done(x));
            for (int x : g.makers[p.written]) ends = ends && (x == v || !done(x));
            if (ends) possible.push_back(p);
        }
        if (!possible.empty()) hill -= saved_bytes(possible, g.size);
    }
    return {hill, begun};
}

Cost cost(const Graph &g, int v, const Set &done) {
    return cost(g, v, [&](int x) { return has(done, x); });
}

i64 worth(const Graph &g, const std::vector<int> &order) {
    Set done = g.none();
    i64 alive = g.base, peak = g.base;
    for (int v : order) {
        const Cost c = cost(g, v, done);
        peak = std::max(peak, alive + c.hill), alive += c.net;
        put(done, v);
    }
    return peak;
}

i64 alive_after(const Graph &g, const Set &done) {
    i64 total = g.base;
    for (int b = 0; b < g.m; ++b) {
        for (int x : g.makers[b])
            if (has(done, x)) {
                total += g.size[b];
                break;
            }
        if (g.outlives[b] || g.held[b].empty()) continue;
        bool over = true;
        for (int x : g.held[b])
            if (!has(done, x)) {
                over = false;
                break;
            }
        if (over) total -= g.size[b];
    }
    return total;
}

i64 alive_between(const Graph &g, Set done, i64 alive, const Set &target) {
    for (size_t w = 0; w < done.size(); ++w)
        for (u64 more = target[w] & ~done[w]; more; more &= more - 1) {
            const int v = int(w * 64) + __builtin_ctzll(more);
            alive += cost(g, v, done).net;
            put(done, v);
        }
    for (size_t w = 0; w < done.size(); ++w)
        for (u64 fewer = done[w] & ~target[w]; fewer; fewer &= fewer - 1) {
            const int v = int(w * 64) + __builtin_ctzll(fewer);
            drop(done, v);
            alive -= cost(g, v, done).net;
        }
    return alive;
}

// ---- the cheapest set between two sets --------------------------------------------------------------------------

struct Bonus {
    Set need;
    i64 nbytes;
};

// Pay-backs (bytes left, nodes needed) and cost items (bytes left, the node they stand for, who feeds them).
struct Net {
    const Graph &g;
    const Edges &e;
    Set inside;
    std::vector<i64> supply, room;
    std::vector<Set> needs;
    std::vector<int> stands;             // -1: for no node
    std::vector<std::vector<int>> into;  // in the order in which they came
    std::vector<std::vector<std::pair<int, i64>>> flow;
    std::vector<int> item;
    std::vector<std::pair<int, int>> extra;  // node, cost item
    std::vector<std::vector<int>> items;
    std::vector<char> known;
    i64 work = 0;

    Net(const Graph &graph, const Edges &edges) : g(graph), e(edges), inside(graph.none()), item(graph.n, -1) {}

    int add_cost(i64 nbytes, int stand) {
        room.push_back(nbytes), stands.push_back(stand), into.emplace_back();
        return int(room.size()) - 1;
    }

    void add_supply(i64 nbytes, Set need) {
        supply.push_back(nbytes), needs.push_back(std::move(need)), flow.emplace_back();
        items.emplace_back(), known.push_back(0);
    }

    // The cost items that pay-back b needs; worked out when it is first asked for.
    const std::vector<int> &reach(int b) {
        if (!known[b]) {
            Set need = needs[b];
            each(needs[b], [&](int x) { join(need, e.before[x]); });
            auto &found = items[b];
            for (size_t w = 0; w < need.size(); ++w) need[w] &= inside[w];
            each(need, [&](int x) { found.push_back(item[x]); });
            for (auto &x : extra)
                if (has(need, x.first)) found.push_back(x.second);
            std::sort(found.begin(), found.end());
            found.erase(std::unique(found.begin(), found.end()), found.end());
            work += 2 * i64(found.size());
            known[b] = 1;
        }
        return items[b];
    }

    // One augmenting path from pay-back b to a cost item with room: items looked at, negative if there is none.
    i64 push(int b) {
        came_item.assign(room.size(), -1), came_back.assign(supply.size(), -2);
        came_back[b] = -1;
        std::vector<int> queue{b};
        i64 seen = 0;
        for (size_t k = 0; k < queue.size(); ++k) {
            const int c = queue[k];
            for (int x : reach(c)) {
                if (came_item[x] >= 0) continue;
                came_item[x] = c, ++seen;
                if (room[x]) {
                    carry(b, x);
                    return seen;
                }
                for (int d : into[x])
                    if (came_back[d] == -2) came_back[d] = x, queue.push_back(d);
            }
        }
        return -1 - seen;
    }

  private:
    std::vector<int> came_item, came_back;

    i64 &through(int c, int x) {
        for (auto &f : flow[c])
            if (f.first == x) return f.second;
        flow[c].push_back({x, 0});
        return flow[c].back().second;
    }

    void carry(int b, int end) {
        i64 amount = std::min(room[end], supply[b]);
        for (int at = end; came_item[at] != b;) {
            const int c = came_item[at];
            amount = std::min(amount, through(c, came_back[c]));
            at = came_back[c];
        }
        room[end] -= amount, supply[b] -= amount;
        for (int at = end;;) {
            const int c = came_item[at];
            through(c, at) += amount;
            if (std::find(into[at].begin(), into[at].end(), c) == into[at].end()) into[at].push_back(c);
            if (c == b) return;
            at = came_back[c];
            i64 &left = through(c, at);
            left -= amount;
            if (!left) into[at].erase(std::find(into[at].begin(), into[at].end(), c));
        }
    }
};

// Every pay-back is fed to the node that begins its bytes at once, where that is one of `path`.
void fill(Net &net, const Set &done, const std::vector<int> &path, const std::vector<Bonus> &bonus) {
    const Graph &g = net.g;
    std::vector<int> order, shared(g.m, -1);
    std::vector<char> seen(g.m);
    for (int v : path) {
        net.item[v] = net.add_cost(g.alloc[v], v);
        for (int b : g.holds[v])
            if (!seen[b]) seen[b] = 1, order.push_back(b);
        for (int b : g.begins[v]) {
            bool there = false;
            for (int x : g.makers[b]) there = there || has(done, x);
            if (there) continue;
            if (shared[b] < 0) shared[b] = net.add_cost(g.size[b], -1);
            net.extra.push_back({v, shared[b]});
        }
    }
    for (int b : order) {
        if (g.outlives[b]) continue;
        Set here = g.none();
        bool ends = true;
        for (int x : g.held[b])
            if (has(net.inside, x))
                put(here, x);
            else if (!has(done, x))
                ends = false;
        if (!ends) continue;
        const int maker = g.makers[b].size() == 1 ? g.makers[b][0] : -1;
        const int at = maker >= 0 ? net.item[maker] : -1;
        const i64 fed = at >= 0 ? std::min(g.size[b], net.room[at]) : 0;
        net.add_supply(g.size[b] - fed, std::move(here));
        if (fed) {
            net.flow.back().push_back({at, fed}), net.room[at] -= fed;
            net.into[at].push_back(int(net.supply.size()) - 1);
        }
    }
    for (auto &x : bonus) {
        Set need = x.need;
        for (size_t w = 0; w < need.size(); ++w) need[w] &= net.inside[w];
        net.add_supply(x.nbytes, std::move(need));
    }
}

// The smallest set E with done <= E <= done + path, closed under predecessors, after which least is alive; `work` grows.
Set lowest(const Graph &g, const Edges &e, const Set &done, const std::vector<int> &path, i64 &work,
           const std::vector<Bonus> &bonus = {}) {
    Net net(g, e);
    for (int v : path) put(net.inside, v);
    fill(net, done, path, bonus);
    i64 used = i64(path.size());
    for (size_t b = 0; b < net.supply.size(); ++b)
        while (net.supply[b]) {
            const i64 looked = net.push(int(b));
            used += looked < 0 ? -looked : looked;
            if (looked < 0) break;
        }
    Set chosen = done;
    std::vector<int> todo;
    std::vector<char> seen(net.supply.size());
    for (size_t b = 0; b < net.supply.size(); ++b)
        if (net.supply[b]) todo.push_back(int(b)), seen[b] = 1;
    while (!todo.empty()) {
        const int b = todo.back();
        todo.pop_back();
        for (int x : net.reach(b)) {
            if (net.stands[x] >= 0) put(chosen, net.stands[x]);
            for (int c : net.into[x])
                if (!seen[c]) seen[c] = 1, todo.push_back(c);
        }
    }
    work += (used + net.work) / 4;
    return chosen;
}

}  // namespace
