// A second device for the tests, without hardware: torch's PrivateUse1 over ordinary memory.
//
// What would show a mistake on real hardware shows here. A device address is the host's plus a distance that no host address
// can have, so that whoever reads it as one is stopped. Memory comes filled with 0xFF and is filled so again when it ends. All
// that is allocated while the device computes, by the host's kernels that serve as its library, counts as the device's and not
// as the host's. Copies that are not to be waited for stay in the queue of their stream until something on that stream runs,
// or somebody waits for it; where a test asks for it, so does every call that writes into results that it is given. Whoever waits
// for the whole device lets the streams take turns.
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;

constexpr auto kDevice = c10::DeviceType::PrivateUse1;
constexpr uintptr_t kFar = uintptr_t{1} << 62;

void* far(void* host) { return host ? reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(host) + kFar) : nullptr; }
void* near(void* device) { return device ? reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(device) - kFar) : nullptr; }

// -- memory ------------------------------------------------------------------------------------------------------------

struct Counts {
  std::mutex lock;
  int64_t now = 0, peak = 0, allocations = 0;
};

Counts& counts() {
  static Counts* found = new Counts;
  return *found;
}

// Takes the place of whoever counts the host's allocations on this thread.
struct Counter : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t nbytes, size_t, size_t, c10::Device) override {
    Counts& c = counts();
    std::lock_guard<std::mutex> hold(c.lock);
    c.now += nbytes;
    c.allocations += nbytes > 0;
    c.peak = std::max(c.peak, c.now);
  }
  bool memoryProfilingEnabled() const override { return true; }
};

struct Ours {  // whoever watches operators takes who watches memory for itself, so it is told of none meanwhile
  static std::shared_ptr<c10::DebugInfoBase> counter() {
    static auto* found = new std::shared_ptr<c10::DebugInfoBase>(std::make_shared<Counter>());
    return *found;
  }
  at::DisableRecordFunctionGuard untold;
  c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, counter()};
};

struct Block {
  c10::DataPtr host;
  size_t nbytes;
  ~Block() { std::memset(host.get(), 0xFF, nbytes); }
};

void finish_what_is_late();
bool ends_behind_work(Block* block);

void end_block(void* context) {
  finish_what_is_late();
  auto* block = static_cast<Block*>(context);
  if (ends_behind_work(block)) return;
  Ours ours;
  delete block;
}

// Host memory, counted as the device's already, as memory of the device.
c10::DataPtr on_device(c10::DataPtr host, size_t nbytes) {
  void* at = host.get();
  if (at == nullptr) return {nullptr, c10::Device(kDevice, 0)};
  return {far(at), new Block{std::move(host), nbytes}, &end_block, c10::Device(kDevice, 0)};
}

struct Memory : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t nbytes) override {
    Ours ours;
    auto host = c10::GetCPUAllocator()->allocate(nbytes);
    if (host.get() != nullptr) std::memset(host.get(), 0xFF, nbytes);
    return on_device(std::move(host), nbytes);
  }
  void copy_data(void* to, const void* from, size_t nbytes) const override {
    std::memcpy(near(to), near(const_cast<void*>(from)), nbytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  // Nothing is freed here before its work is done; that somebody asked for it is all there is to see.
  void recordStream(const c10::DataPtr&, c10::Stream) override { ++recorded; }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    Counts& c = counts();
    std::lock_guard<std::mutex> hold(c.lock);
    c10::CachingDeviceAllocator::DeviceStats found;
    found.allocated_bytes[0].current = c.now;
    found.allocated_bytes[0].peak = c.peak;
    found.allocation[0].allocated = c.allocations;
    return found;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {
    std::lock_guard<std::mutex> hold(counts().lock);
    counts().allocations = 0;
  }
  std::atomic<int64_t> recorded{0};
  void resetPeakStats(c10::DeviceIndex) override {
    std::lock_guard<std::mutex> hold(counts().lock);
    counts().peak = counts().now;
  }
};

Memory memory;

// Pinned memory of the host, from an allocator of its own: filled as the device's is, and counted by itself.
struct Pinned : c10::Allocator {
  mutable std::mutex lock;
  std::map<uintptr_t, size_t> blocks;
  int64_t now = 0, peak = 0;
  c10::DataPtr allocate(size_t nbytes) override;
  void copy_data(void* to, const void* from, size_t nbytes) const override { std::memcpy(to, from, nbytes); }
  bool holds(const void* at) const {
    std::lock_guard<std::mutex> hold(lock);
    auto behind = blocks.upper_bound(reinterpret_cast<uintptr_t>(at));
    if (behind == blocks.begin()) return false;
    auto [first, nbytes] = *std::prev(behind);
    return reinterpret_cast<uintptr_t>(at) < first + nbytes;
  }
};

Pinned pinned;

void end_pinned(void* at) {
  finish_what_is_late();
  std::lock_guard<std::mutex> hold(pinned.lock);
  auto block = pinned.blocks.extract(reinterpret_cast<uintptr_t>(at));
  pinned.now -= block.mapped();
  std::memset(at, 0xFF, block.mapped());
  std::free(at);
}

c10::DataPtr Pinned::allocate(size_t nbytes) {
  if (nbytes == 0) return {nullptr, c10::Device(c10::kCPU)};
  void* at = std::aligned_alloc(64, (nbytes + 63) / 64 * 64);
  std::memset(at, 0xFF, nbytes);
  std::lock_guard<std::mutex> hold(lock);
  blocks[reinterpret_cast<uintptr_t>(at)] = nbytes;
  now += nbytes;
  peak = std::max(peak, now);
  return {at, at, &end_pinned, c10::Device(c10::kCPU)};
}

// -- streams -----------------------------------------------------------------------------------------------------------

struct Queues {
  std::recursive_mutex lock;
  std::map<c10::StreamId, std::deque<std::function<void()>>> waiting;
  c10::StreamId last = 0;
  std::atomic<bool> late{false};
};

Queues& queues() {
  static Queues* found = new Queues;
  return *found;
}

thread_local c10::StreamId current = 0;

bool run_one(std::deque<std::function<void()>>& work) {
  if (work.empty()) return false;
  auto first = std::move(work.front());
  work.pop_front();
  first();
  return true;
}

void finish(c10::StreamId stream) {
  std::lock_guard<std::recursive_mutex> hold(queues().lock);
  while (run_one(queues().waiting[stream])) {
  }
}

void finish_all() {
  std::lock_guard<std::recursive_mutex> hold(queues().lock);
  for (bool any = true; any;) {
    any = false;
    for (auto& [stream, work] : queues().waiting) any |= run_one(work);
  }
}

// Late calls keep no bytes alive, only where they are.
void finish_what_is_late() {
  if (queues().late) finish_all();
}

struct Nobody : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t, size_t, size_t, c10::Device) override {}
  bool memoryProfilingEnabled() const override { return true; }
};

// Memory that ends while copies wait is gone at once for whoever counts, and given back behind them.
bool ends_behind_work(Block* block) {
  std::lock_guard<std::recursive_mutex> hold(queues().lock);
  for (auto& [stream, work] : queues().waiting)
    if (stream != current) finish(stream);
  auto& work = queues().waiting[current];
  if (work.empty()) return false;
  {
    std::lock_guard<std::mutex> counting(counts().lock);
    counts().now -= block->nbytes;
  }
  work.push_back([block] {
    at::DisableRecordFunctionGuard untold;
    c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, std::make_shared<Nobody>());
    delete block;
  });
  return true;
}

struct Guard : c10::impl::DeviceGuardImplInterface {
  static c10::Stream stream(c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(kDevice, 0), id);
  }
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return {kDevice, 0}; }
  c10::Device getDevice() const override { return {kDevice, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const override { return stream(current); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return getNewStream(d, 0); }
  c10::Stream getNewStream(c10::Device, int) const override {
    std::lock_guard<std::recursive_mutex> hold(queues().lock);
    return stream(++queues().last);
  }
  c10::Stream exchangeStream(c10::Stream next) const override {
    auto before = stream(current);
    current = next.id();
    return before;
  }
  bool queryStream(const c10::Stream& s) const override {
    std::lock_guard<std::recursive_mutex> hold(queues().lock);
    return queues().waiting[s.id()].empty();
  }
  void synchronizeStream(const c10::Stream& s) const override { finish(s.id()); }
  void synchronizeDevice(c10::DeviceIndex) const override { finish_all(); }
  // An event is the stream that it was recorded on: running its work early keeps every order that was asked for.
  void record(void** event, const c10::Stream& s, c10::DeviceIndex, c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(s.id() + 1);
  }
  void block(void* event, const c10::Stream&) const override { synchronizeEvent(event); }
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) finish(reinterpret_cast<c10::StreamId>(event) - 1);
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  bool isPinnedPtr(const void* at) const override { return pinned.holds(at); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
};

// -- operators ---------------------------------------------------------------------------------------------------------

// One call of a host kernel on the device's bytes: its tensors stand in for the device's, under the same bytes.
struct Call {
  std::unordered_map<c10::StorageImpl*, c10::Storage> host_of, device_of;
  std::unordered_map<c10::TensorImpl*, Tensor> original;
  std::vector<std::pair<Tensor, Tensor>> pairs;

  static Tensor header(c10::Storage storage, DispatchKey key, const Tensor& like) {
    auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), like.dtype());
    made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
    return made;
  }

  Tensor to_host(const Tensor& t) {
    if (!t.defined() || t.device().type() != kDevice) return t;
    const c10::Storage& ours = t.storage();
    auto [at, fresh] = host_of.try_emplace(ours.unsafeGetStorageImpl());
    if (fresh) {
      c10::DataPtr bytes(near(ours.data_ptr().get()), c10::Device(c10::kCPU));
      at->second = c10::Storage(c10::Storage::use_byte_size_t(), ours.nbytes(), std::move(bytes), c10::GetCPUAllocator(), true);
      device_of.emplace(at->second.unsafeGetStorageImpl(), ours);
    }
    Tensor made = header(at->second, DispatchKey::CPU, t);
    original.emplace(made.unsafeGetTensorImpl(), t);
    pairs.emplace_back(made, t);
    return made;
  }

  Tensor to_device(const Tensor& t) {
    if (!t.defined()) return t;
    if (auto same = original.find(t.unsafeGetTensorImpl()); same != original.end()) return same->second;
    auto [at, fresh] = device_of.try_emplace(t.storage().unsafeGetStorageImpl());
    if (fresh) {
      auto* theirs = t.storage().unsafeGetStorageImpl();
      auto bytes = on_device(theirs->set_data_ptr(c10::DataPtr(nullptr, c10::Device(c10::kCPU))), theirs->nbytes());
      at->second = c10::Storage(c10::Storage::use_byte_size_t(), theirs->nbytes(), std::move(bytes), &memory, true);
    }
    return header(at->second, DispatchKey::PrivateUse1, t);
  }

  // A kernel may give a result more room, or other sizes.
  void settle() {
    for (auto& [host, ours] : pairs) {
      auto* theirs = host.storage().unsafeGetStorageImpl();
      auto* mine = ours.storage().unsafeGetStorageImpl();
      if (far(theirs->mutable_data()) != mine->mutable_data()) {
        auto nbytes = theirs->nbytes();
        mine->set_data_ptr_noswap(on_device(theirs->set_data_ptr(c10::DataPtr(nullptr, c10::Device(c10::kCPU))), nbytes));
        mine->set_nbytes(nbytes);
      }
      if (host.sizes() != ours.sizes() || host.strides() != ours.strides())
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }
};

template <class Translate>
c10::IValue translated(const c10::IValue& v, const Translate& one) {
  if (v.isTensor()) return one(v.toTensor());
  if (v.isTensorList()) {
    c10::List<Tensor> out;
    for (const Tensor& t : v.toTensorVector()) out.push_back(one(t));
    return out;
  }
  if (v.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> out;
    for (const std::optional<Tensor>& t : v.toOptionalTensorVector())
      out.push_back(t ? std::optional<Tensor>(one(*t)) : std::nullopt);
    return out;
  }
  return v.isDevice() ? c10::IValue(c10::Device(c10::kCPU)) : v;
}

// Whether a call only writes into results that it is given. These must have the sizes of what is written.
bool writes_given(const c10::FunctionSchema& schema) {
  bool any = false;
  for (const c10::Argument& a : schema.arguments()) any |= a.is_out();
  return any;
}

void wait_in_queue(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size();
  torch::jit::Stack given(stack->end() - count, stack->end()), args;
  {
    Call call;
    for (const c10::IValue& v : given) args.push_back(translated(v, [&](const Tensor& t) { return call.to_host(t); }));
  }
  {
    std::lock_guard<std::recursive_mutex> hold(queues().lock);
    queues().waiting[current].push_back([op, args]() mutable {
      Ours ours;
      at::AutoDispatchBelowADInplaceOrView below;
      op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &args);
    });
  }
  stack->resize(stack->size() - count);
  for (size_t i = 0; i < count; ++i)
    if (schema.arguments()[i].is_out()) stack->push_back(given[i]);
}

void by_host_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  if (queues().late && writes_given(op.schema())) return wait_in_queue(op, stack);
  finish(current);
  Ours ours;
  Call call;
  for (size_t i = stack->size() - op.schema().arguments().size(); i < stack->size(); ++i)
    (*stack)[i] = translated((*stack)[i], [&](const Tensor& t) { return call.to_host(t); });
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  call.settle();
  for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); ++i)
    (*stack)[i] = translated((*stack)[i], [&](const Tensor& t) { return call.to_device(t); });
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, DispatchKeySet(DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, DispatchKeySet(DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

void copy_now(const Tensor& from, Tensor to) {
  Ours ours;
  at::AutoDispatchBelowADInplaceOrView below;
  to.copy_(from);
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  Call call;
  Tensor source = call.to_host(from), into = call.to_host(to);
  if (non_blocking && from.device() != to.device()) {  // keeps no bytes of the device alive, only where they are
    std::lock_guard<std::recursive_mutex> hold(queues().lock);
    queues().waiting[current].push_back([source, into] { copy_now(source, into); });
    return to;
  }
  finish(current);
  copy_now(source, into);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar number(const Tensor& t) {
  finish(current);
  Call call;
  return call.to_host(t).item();
}

Tensor& set_storage(Tensor& t, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(t, std::move(source), offset, size, stride);
}

Tensor& set_nothing(Tensor& t) {
  c10::Storage none(c10::Storage::use_byte_size_t(), 0, memory.allocate(0), &memory, true);
  return set_storage(t, std::move(none), 0, {0}, {1});
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_host_kernel>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", [](const Tensor& t, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) -> const Tensor& {
    return at::native::resize_(t, C10_AS_INTARRAYREF_SLOW(size), format);
  });
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_", &set_nothing);
  m.impl("record_stream", [](Tensor& t, c10::Stream s) { memory.recordStream(t.storage().data_ptr(), s); });
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, at::Storage)>(&at::native::set_));
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &number);
}

// To be called once, before the first tensor.
extern "C" void lowtide_test_begin() {
  c10::SetAllocator(kDevice, &memory);
  at::RegisterPrivateUse1HooksInterface(new Hooks);
}

// From here on (or no longer) calls that write into given results wait in their streams' queues.
extern "C" void lowtide_test_late(bool late) { queues().late = late; }

// How much work waits in the queue of the current stream.
extern "C" int64_t lowtide_test_waiting() {
  std::lock_guard<std::recursive_mutex> hold(queues().lock);
  return queues().waiting[current].size();
}

// Bytes of pinned memory: now, or the most at once since this was last asked.
extern "C" int64_t lowtide_test_pinned(bool most) {
  std::lock_guard<std::mutex> hold(pinned.lock);
  return most ? std::exchange(pinned.peak, pinned.now) : pinned.now;
}

// How often a stream was recorded for bytes of the device.
extern "C" int64_t lowtide_test_recorded() { return memory.recorded; }
