// An allocator in front of PyTorch's own for the CPU: while a region is active on a thread, it notes what is allocated and
// freed, or gives allocations the places that were planned for them. Links against libc10 alone.
//
// A placed block lies inside the region's slab. Whether its bytes are free is looked up by address before each placement, so
// that a program that allocates otherwise than planned gets ordinary memory and never somebody's bytes. The slab lives until
// the region is dropped and the last block in it is freed, whoever holds it.
//
// Libraries also free by bare address (raw_deallocate), so a block's context is its address and blocks are found in a table.
// For the same reason the allocator stays once it is installed; outside a region it hands everything on.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

struct Event {
  int64_t id, nbytes, mark;  // nbytes < 0: freed
};

struct Region {
  std::mutex lock;
  std::atomic<int64_t> holders{1};
  bool recording = false;
  int64_t mark = -1, next = 0, turn = 0, placed = 0, escaped = 0, escaped_nbytes = 0, slab_nbytes = 0;
  std::vector<Event> events;
  std::vector<int64_t> sizes, offsets;
  std::map<int64_t, int64_t> live;  // begin -> end, bytes in the slab
  c10::DataPtr slab;
};

struct Block {
  Region* region;
  int64_t id, offset;
  c10::DataPtr inner;
};

// Blocks by address, in a few tables so that threads seldom wait for each other.
struct Table {
  std::mutex lock;
  std::unordered_map<void*, Block> blocks;
};

Table& table(void* at) {
  static Table* tables = new Table[16];  // never ended: blocks may outlive everything
  return tables[(reinterpret_cast<uintptr_t>(at) >> 6) & 15];
}

void remember(void* at, Block b) {
  Table& t = table(at);
  std::lock_guard<std::mutex> hold(t.lock);
  t.blocks.emplace(at, std::move(b));
}

thread_local Region* active = nullptr;

void drop(Region* r) {
  if (r->holders.fetch_sub(1) == 1) delete r;
}

void end_block(void* at);

struct Front final : c10::Allocator {
  c10::Allocator* behind = nullptr;
  std::mutex lock;

  c10::DataPtr allocate(size_t n) override {
    Region* r = active;
    if (r == nullptr || n == 0) return behind->allocate(n);
    return r->recording ? record(r, n) : place(r, n);
  }

  c10::DeleterFnPtr raw_deleter() const override { return &end_block; }

  c10::DataPtr record(Region* r, size_t n) {
    c10::DataPtr inner = behind->allocate(n);
    void* at = inner.get();
    int64_t id = 0;
    {
      std::lock_guard<std::mutex> hold(r->lock);
      id = r->next++;
      r->holders.fetch_add(1);
      r->events.push_back({id, static_cast<int64_t>(n), r->mark});
    }
    remember(at, {r, id, -1, std::move(inner)});
    return {at, at, &end_block, c10::Device(c10::kCPU)};
  }

  // The next planned allocation of that size, at most `ahead` further on: programs may leave one out.
  int64_t find(Region* r, int64_t n) {
    const int64_t ahead = 16, count = static_cast<int64_t>(r->sizes.size());
    for (int64_t k = r->turn; k < count && k < r->turn + ahead; ++k)
      if (r->sizes[k] == n) return k;
    return -1;
  }

  bool free_at(Region* r, int64_t begin, int64_t end) {
    auto after = r->live.lower_bound(begin);
    if (after != r->live.end() && after->first < end) return false;
    if (after == r->live.begin()) return true;
    --after;
    return after->second <= begin;
  }

  c10::DataPtr place(Region* r, size_t n) {
    {
      std::lock_guard<std::mutex> hold(r->lock);
      const int64_t k = find(r, static_cast<int64_t>(n));
      if (k >= 0) r->turn = k + 1;
      const int64_t offset = k < 0 ? -1 : r->offsets[k];
      const int64_t end = offset + static_cast<int64_t>(n);
      if (k >= 0 && offset < 0) return behind->allocate(n);  // planned to be the caller's
      if (offset >= 0 && end <= r->slab_nbytes && free_at(r, offset, end)) {
        if (!r->slab) r->slab = behind->allocate(static_cast<size_t>(r->slab_nbytes));
        r->live[offset] = end;
        r->placed++;
        r->holders.fetch_add(1);
        void* at = static_cast<char*>(r->slab.get()) + offset;
        remember(at, {r, k, offset, {}});
        return {at, at, &end_block, c10::Device(c10::kCPU)};
      }
      r->escaped++;
      r->escaped_nbytes += static_cast<int64_t>(n);
    }
    return behind->allocate(n);
  }

  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
};

Front& front() {
  static Front* made = new Front();
  return *made;
}

void end_block(void* at) {
  if (at == nullptr) return;
  Block b{};
  {
    Table& t = table(at);
    std::lock_guard<std::mutex> hold(t.lock);
    auto found = t.blocks.find(at);
    if (found != t.blocks.end()) {
      b = std::move(found->second);
      t.blocks.erase(found);
    }
  }
  Region* r = b.region;
  if (r == nullptr) {  // not ours
    front().behind->raw_deleter()(at);
    return;
  }
  {
    std::lock_guard<std::mutex> hold(r->lock);
    if (b.offset >= 0)
      r->live.erase(b.offset);
    else if (r->recording)
      r->events.push_back({b.id, -1, r->mark});
  }
  drop(r);
}

}  // namespace

extern "C" {

void* lowtide_region_new() { return new Region(); }

void lowtide_region_drop(void* region) {
  auto* r = static_cast<Region*>(region);
  {
    std::lock_guard<std::mutex> hold(r->lock);
    r->recording = false;
  }
  drop(r);
}

void lowtide_region_record(void* region, int64_t on) {
  auto* r = static_cast<Region*>(region);
  std::lock_guard<std::mutex> hold(r->lock);
  r->recording = on != 0;
}

void lowtide_region_mark(void* region, int64_t mark) { static_cast<Region*>(region)->mark = mark; }

void lowtide_region_plan(void* region, int64_t count, const int64_t* sizes, const int64_t* offsets, int64_t nbytes) {
  auto* r = static_cast<Region*>(region);
  std::lock_guard<std::mutex> hold(r->lock);
  r->sizes.assign(sizes, sizes + count);
  r->offsets.assign(offsets, offsets + count);
  r->slab_nbytes = nbytes;
}

// Copies the events, three numbers each, and returns how many there are; with `out` null only counts.
int64_t lowtide_region_events(void* region, int64_t* out) {
  auto* r = static_cast<Region*>(region);
  std::lock_guard<std::mutex> hold(r->lock);
  if (out != nullptr) std::memcpy(out, r->events.data(), r->events.size() * sizeof(Event));
  return static_cast<int64_t>(r->events.size());
}

// placed, escaped, bytes escaped, blocks alive in the slab, where the slab begins (0: there is none).
void lowtide_region_told(void* region, int64_t* out) {
  auto* r = static_cast<Region*>(region);
  std::lock_guard<std::mutex> hold(r->lock);
  out[0] = r->placed;
  out[1] = r->escaped;
  out[2] = r->escaped_nbytes;
  out[3] = static_cast<int64_t>(r->live.size());
  out[4] = reinterpret_cast<int64_t>(r->slab.get());
}

// Frees the slab if nothing lies in it; returns whether.
int64_t lowtide_region_release(void* region) {
  auto* r = static_cast<Region*>(region);
  std::lock_guard<std::mutex> hold(r->lock);
  if (!r->live.empty()) return 0;
  r->slab.clear();
  return 1;
}

// Makes a region the active one of this thread (null: none) and returns the one before; installs the allocator at need.
void* lowtide_enter(void* region) {
  Front& f = front();
  auto* r = static_cast<Region*>(region);
  {
    std::lock_guard<std::mutex> hold(f.lock);
    if (c10::GetCPUAllocator() != &f) {
      f.behind = c10::GetCPUAllocator();
      c10::SetCPUAllocator(&f, 0);
    }
  }
  if (r != nullptr) {
    std::lock_guard<std::mutex> hold(r->lock);
    r->turn = 0;
  }
  void* before = active;
  active = r;
  return before;
}

// Ends what `enter` began: `before` is active again.
void lowtide_leave(void* before) { active = static_cast<Region*>(before); }
}
