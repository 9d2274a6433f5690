// A pretended GPU on PrivateUse1: memory of the host and torch's CPU kernels, with CUDA's rules about devices and
// waits. Every operation gets here by `fallback`, but for those that make or view tensors.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <unordered_set>

namespace {
constexpr auto FAKE = c10::DeviceType::PrivateUse1;
using Names = std::unordered_set<std::string>;
const c10::Device DEVICE(FAKE, 0);
const auto KEYS = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);

// ---- what is counted, and who is told

std::atomic<long> to_host{0}, to_device{0}, reads{0}, later{0}, live{0}, peak{0};
thread_local int inside = 0;  // what the fallback copies by itself is no copy of the program
PyObject* listener = nullptr;  // called with (kind, operation, bytes)

struct Inside {
  Inside() { inside++; }
  ~Inside() { inside--; }
};

void tell(std::atomic<long>& counter, const char* kind, const std::string& operation, int64_t bytes) {
  if (inside) return;
  counter++;
  if (!listener) return;
  py::gil_scoped_acquire gil;
  py::handle heard(listener);
  heard(kind, operation, bytes);
}

// ---- memory

struct Block {
  void* data;
  size_t bytes;
  c10::Storage storage;  // of the host, where a result of a CPU kernel was taken over
};

void give_back(void* pointer) {
  auto* block = static_cast<Block*>(pointer);
  live -= (long)block->bytes;
  if (!block->storage) std::free(block->data);
  delete block;
}

c10::DataPtr counted(Block* block) {
  live += (long)block->bytes;
  if (live > peak) peak = live.load();
  return {block->data, block, &give_back, DEVICE};
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    return counted(new Block{bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr, bytes, {}});
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Allocator allocator;
REGISTER_ALLOCATOR(FAKE, &allocator);

std::mutex pinned_mutex;
std::map<const char*, size_t> pinned;  // address -> bytes

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned[static_cast<const char*>(data)] = bytes;
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  static void release(void* data) {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned.erase(static_cast<const char*>(data));
    std::free(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
PinnedAllocator pinned_allocator;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  auto next = pinned.upper_bound(static_cast<const char*>(data));
  if (next == pinned.begin()) return false;
  auto& [begin, bytes] = *std::prev(next);
  return static_cast<const char*>(data) < begin + std::max<size_t>(bytes, 1);
}

// ---- the device, of which there is one, with one stream that is never behind

struct Guard final : c10::impl::DeviceGuardImplInterface {
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::DeviceType type() const override { return FAKE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeStream(const c10::Stream&) const override { tell(reads, "read", "synchronize", 0); }
  void synchronizeDevice(const c10::DeviceIndex) const override { tell(reads, "read", "synchronize", 0); }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(); }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return DEVICE; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};
Hooks hooks;
bool registered = [] { at::RegisterPrivateUse1HooksInterface(&hooks); return true; }();

// ---- tensors: made, seen from the host, copied, viewed

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, KEYS, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, KEYS, c10::dtype_or_default(dtype));
}

at::Tensor host(const at::Tensor& t) {  // the same memory as a tensor of the CPU
  if (!t.defined() || t.device().is_cpu()) return t;
  auto storage = t.storage();
  auto bytes = at::from_blob(storage.mutable_data(), {(int64_t)storage.nbytes()}, at::TensorOptions().dtype(at::kByte));
  auto typed = at::empty({0}, t.options().device(at::kCPU));
  typed.set_(bytes.storage(), t.storage_offset(), t.sizes(), t.strides());
  if (t.is_conj()) typed._set_conj(true);
  return typed;
}

at::Tensor up(const at::Tensor& t) {  // a copy of a tensor of the host, here
  if (!t.defined()) return t;
  at::Tensor out = at::detail::empty_strided_generic(t.sizes(), t.strides(), &allocator, KEYS, t.scalar_type());
  host(out).copy_(t);
  return out;
}

at::Tensor over(c10::Storage storage, const at::Tensor& shape) {  // a tensor in `storage` that looks like `shape`
  at::Tensor out = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), KEYS, shape.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(shape.sizes(), shape.strides(), shape.storage_offset());
  return out;
}

at::Tensor taken_over(const at::Tensor& t) {  // the result of a CPU kernel, here, without a copy
  auto storage = t.storage();
  auto pointer = counted(new Block{storage.mutable_data(), storage.nbytes(), storage});
  auto size = storage.nbytes();
  return over(c10::Storage(c10::Storage::use_byte_size_t(), size, std::move(pointer), &allocator, true), t);
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  bool from_here = self.device().type() == FAKE, to_here = to.device().type() == FAKE;
  int64_t bytes = to.numel() * to.element_size();
  if (bytes && from_here && to.device().is_cpu()) {  // without pinned memory the host waits all the same
    if (non_blocking && is_pinned(to.const_data_ptr())) tell(later, "later", "copy to the host", bytes);
    else tell(to_host, "read", "copy to the host", bytes);
  }
  if (bytes && to_here && self.device().is_cpu()) {
    tell(to_device, non_blocking ? "sent" : "write", "copy to the device", bytes);
  }
  host(to).copy_(host(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (self.sizes() == sizes && !format) return self;  // with the strides that it has
  int64_t bytes = (c10::multiply_integers(sizes) + self.storage_offset()) * self.element_size();
  auto storage = self.storage();
  if ((int64_t)storage.nbytes() < bytes) {
    auto fresh = allocator.allocate(bytes);
    if (storage.nbytes()) std::memcpy(fresh.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(fresh));
    storage.set_nbytes(bytes);
  }
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_sizes_contiguous(sizes);
  bool restride = format && *format != at::MemoryFormat::Contiguous && *format != at::MemoryFormat::Preserve;
  if (restride) tensor->empty_tensor_restride(*format);
  return self;
}

at::Scalar local_scalar(const at::Tensor& self) {
  tell(reads, "read", "item", self.element_size());
  return at::_local_scalar_dense(host(self));
}

at::Tensor like(const at::Tensor& self, const at::Tensor& view) {  // what `view` of the host's memory is, here
  auto storage = c10::Storage(self.storage());
  at::Tensor out = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, std::move(storage), self.key_set(),
                                                            view.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides(), view.storage_offset());
  return out;
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  return like(self, at::as_strided_symint(host(self), size, stride, offset ? *offset : self.sym_storage_offset()));
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) { return like(self, host(self).view_symint(size)); }

at::Tensor view_dtype(const at::Tensor& self, at::ScalarType dtype) { return like(self, host(self).view(dtype)); }

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return as_strided(self, size, stride, std::nullopt);
}

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  return like(self, host(self).unfold(dimension, size, step));
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                        c10::SymIntArrayRef stride) {
  TORCH_CHECK(source.device().type() == FAKE, "set_: storage of another device");
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_storage_keep_dtype(std::move(source));
  tensor->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                offset.guard_int(__FILE__, __LINE__));
  return self;
}

at::Tensor& set_whole(at::Tensor& self, at::Storage source) {
  std::vector<c10::SymInt> size{(int64_t)(source.nbytes() / self.element_size())}, stride{1};
  return set_storage(self, source, 0, size, stride);
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sym_sizes(), source.sym_strides());
}

void record_stream(at::Tensor&, c10::Stream) {}

// ---- operations

void refuse(const std::string& name, const char* other) {
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but ", name, " got ", other, " and fake:0");
}

void same(const at::Tensor& first, const at::Tensor& second, const char* name) {
  if (first.device() != second.device()) refuse(name, "cpu");
}

at::Tensor conv(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b, c10::SymIntArrayRef s,
                c10::SymIntArrayRef p, c10::SymIntArrayRef d, bool t, c10::SymIntArrayRef o, c10::SymInt g) {
  same(x, w, "convolution");
  std::optional<at::Tensor> bias;
  if (b && b->defined()) {
    same(x, *b, "convolution");
    bias = host(*b);
  }
  return taken_over(at::convolution_symint(host(x), host(w), bias, s, p, d, t, o, g));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> conv_back(
    const at::Tensor& slope, const at::Tensor& x, const at::Tensor& w, c10::SymIntArrayRef s, c10::SymIntArrayRef p,
    c10::SymIntArrayRef d, bool t, c10::SymIntArrayRef o, c10::SymInt g, std::array<bool, 3> mask) {
  same(x, w, "convolution_backward");
  same(x, slope, "convolution_backward");
  std::vector<c10::SymInt> bias{t ? w.sym_size(1) * g : w.sym_size(0)};
  auto [dx, dw, db] = at::convolution_backward_symint(
      host(slope), host(x), host(w), c10::SymIntArrayRef(bias), s, p, d, t, o, g, mask);
  return {up(dx), up(dw), up(db)};
}

// CUDA takes indices of the CPU, and tensors without dimensions in pointwise operations (not in `cat` and the like).
const Names INDEXING = {"aten::index.Tensor", "aten::index.Tensor_out", "aten::_unsafe_index.Tensor",
                        "aten::index_put", "aten::index_put_", "aten::index_put.out", "aten::_index_put_impl",
                        "aten::_index_put_impl_", "aten::_index_put_impl.out"};
const Names STRICT = {"aten::cat", "aten::cat.out", "aten::stack", "aten::index_select", "aten::gather",
                      "aten::scatter_", "aten::nll_loss_forward"};
// The size of what comes out, or a check of what goes in, is read by the host.
const Names WAITING = {"aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2", "aten::unique_dim",
                       "aten::unique_consecutive", "aten::equal", "aten::is_nonzero", "aten::bincount",
                       "aten::repeat_interleave.Tensor"};
// Writes what its schema does not declare.
const Names ON_MEMORY = {"aten::native_batch_norm", "aten::_amp_foreach_non_finite_check_and_unscale_",
                         "aten::_amp_update_scale_"};

template <typename Look>
void each_tensor(const c10::IValue& value, Look look) {
  if (value.isTensor()) look(value.toTensor());
  else if (value.isTensorList()) for (const auto& t : value.toTensorList()) look(t);
  else if (value.isOptionalTensorList())
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorList()) if (t) look(*t);
}

void check(const std::string& name, c10::ArrayRef<c10::IValue> arguments) {
  bool ours = false, others = false, numbers = false, masks = false;
  bool fused = name.find("_fused_") != std::string::npos, indexing = INDEXING.count(name);
  for (const auto& argument : arguments) each_tensor(argument, [&](const at::Tensor& t) {
    if (!t.defined()) return;
    if (t.device().type() == FAKE) ours = true;
    else if (t.device().is_cpu() && t.dim()) others = true;
    else if (t.device().is_cpu() && !t.unsafeGetTensorImpl()->is_wrapped_number()) numbers = true;
  });
  if (ours && others && !indexing) refuse(name, "cpu");
  if (ours && numbers && (STRICT.count(name) || fused)) refuse(name, "a tensor without dimensions of the cpu");
  if (ours && fused) {  // CUDA's kernels walk through all lists of a parameter in one order
    for (size_t list = 1; list < arguments.size() && arguments[list].isTensorList(); list++) {
      auto parameters = arguments[0].toTensorVector(), others = arguments[list].toTensorVector();
      for (size_t i = 0; i < others.size(); i++) {
        bool alike = true;
        for (int64_t d = 0; others[i].sizes() == parameters[i].sizes() && d < others[i].dim(); d++) {
          alike &= others[i].size(d) == 1 || others[i].stride(d) == parameters[i].stride(d);
        }
        TORCH_CHECK(alike, name, ": a parameter and its gradient or moments have other strides");
      }
    }
  }
  if (indexing) {
    each_tensor(arguments[1], [&](const at::Tensor& t) {
      masks |= t.defined() && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte);
    });
    bool fills = arguments.size() > 2 && arguments[2].isTensor() && arguments[2].toTensor().numel() == 1;
    if (ours && masks && !fills) tell(reads, "read", "indexing by a mask", 0);
  }
  if (WAITING.count(name)) tell(reads, "read", name.substr(6), 0);
}

bool can_share(const std::string& name, const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments) {
  if (ON_MEMORY.count(name) || name.find("aten::_fused_") == 0) return true;
  for (size_t i = 0; i < arguments.size(); i++) {
    if (schema.arguments()[i].alias_info() || arguments[i].isDevice()) return false;  // `out=` may be resized
  }
  for (const auto& result : schema.returns()) {
    if (result.alias_info() || !result.type()->isSubtypeOf(*c10::TensorType::get())) return false;
  }
  return true;
}

void on_shared_memory(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size(), begin = stack->size() - count;
  std::vector<at::Tensor> originals;
  for (size_t i = begin; i < begin + count; i++) {
    auto& value = (*stack)[i];
    each_tensor(value, [&](const at::Tensor& t) { if (t.defined()) originals.push_back(t); });
    if (value.isTensor()) {
      value = host(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const auto& t : value.toTensorVector()) list.push_back(host(t));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& t : value.toOptionalTensorList()) {
        list.push_back(t ? std::make_optional(host(*t)) : std::nullopt);
      }
      value = list;
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    auto result = value.toTensor();
    const at::Tensor* same = nullptr;
    for (const auto& t : originals) if (t.storage().data() == result.storage().data()) same = &t;
    const auto* alias = schema.returns()[i - (stack->size() - schema.returns().size())].alias_info();
    if (same && alias && alias->isWrite()) value = *same;
    else value = same || !result.storage().data() ? up(result) : taken_over(result);
  }
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  std::string name = schema.name() + (schema.overload_name().empty() ? "" : "." + schema.overload_name());
  auto arguments = torch::jit::last(*stack, schema.arguments().size());
  check(name, arguments);
  Inside guard;
  if (can_share(name, schema, arguments)) on_shared_memory(op, stack);
  else at::native::cpu_fallback(op, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize_);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("view.dtype", view_dtype);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_.source_Storage", set_whole);
  m.impl("record_stream", record_stream);
  m.impl("convolution_overrideable", conv);
  m.impl("convolution_backward_overrideable", conv_back);
}
}  // namespace

namespace at::autocast {
namespace {
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
#define SINGLE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_FP32(SINGLE)
#define SINGLE_OUT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
  AT_FORALL_FP32_SET_OPT_DTYPE(SINGLE_OUT)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_PROMOTE(WIDEST)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
}
}  // namespace
}  // namespace at::autocast

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("counts", [] { return std::make_tuple(to_host.load(), to_device.load(), reads.load()); });
  m.def("later", [] { return later.load(); });
  m.def("memory", [] { return std::make_tuple(live.load(), peak.load()); });
  m.def("reset_peak", [] { peak = live.load(); });
  m.def("listen", [](py::object heard) {
    Py_XDECREF(listener);
    listener = heard.is_none() ? nullptr : heard.release().ptr();
  });
}
