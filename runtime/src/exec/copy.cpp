#include "exec/copy.h"

#include <cstring>

#include "core/error.h"
#include "core/transfer.h"
#include "device/gpu/gpu_backend.h"

namespace tessera::core {

namespace {

struct Cursor {
    char *target;
    const char *source;
};

void copy_axis(Cursor at, const Tensor &target, const Tensor &source, size_t axis, size_t item) {
    const int64_t count = source.shape()[axis];
    const int64_t to = target.strides()[axis] * static_cast<int64_t>(item);
    const int64_t from = source.strides()[axis] * static_cast<int64_t>(item);
    const bool last = axis + 1 == source.shape().size();
    if (last && to == static_cast<int64_t>(item) && from == to) {
        std::memmove(at.target, at.source, static_cast<size_t>(count) * item);
        return;
    }
    for (int64_t i = 0; i < count; ++i, at.target += to, at.source += from) {
        if (last)
            std::memcpy(at.target, at.source, item);
        else
            copy_axis(at, target, source, axis + 1, item);
    }
}

// Both in memory of the CPU.
void copy_now(const Tensor &source, const Tensor &target) {
    auto *to = static_cast<char *>(target.data());
    auto *from = static_cast<const char *>(source.data());
    if (source.size() == 0)
        return;
    if (source.is_contiguous() && target.is_contiguous())
        std::memmove(to, from, source.bytes());
    else
        copy_axis({to, from}, target, source, 0, item_size(source.dtype()));
}

void check_tensors(const Tensor &source, const Tensor &target) {
    if (source.dtype() != target.dtype())
        fail(Code::DType, "copy: the source is %s, the target %s; the dtypes must be equal",
             type_text(source.dtype(), source.shape()).c_str(), type_text(target.dtype(), target.shape()).c_str());
    if (source.shape() != target.shape())
        fail(Code::Shape, "copy: the source has shape %s, the target %s; the shapes must be equal",
             shape_text(source.shape()).c_str(), shape_text(target.shape()).c_str());
    if (target.readonly())
        fail(Code::Argument, "copy: the target is read-only");
    const bool rows = source.is_contiguous() && target.is_contiguous();
    const bool host = source.device().is_cpu() && target.device().is_cpu();
    if (!rows && !host)
        fail(Code::Unsupported, "copy: strided tensors are copied within the memory of the CPU only; here from %s to %s. "
                                "Make them row-major first",
             text(source.device()).c_str(), text(target.device()).c_str());
    const bool same = source.data() == target.data() && source.strides() == target.strides();
    if (!rows && !same && host && address_range(source).overlaps(address_range(target)))
        fail(Code::Argument, "copy: a strided source and target overlap");
}

// What is put on a GPU's stream from now on comes after the work that writes the tensor.
void order_after(Stream &stream, const Tensor &tensor) {
    std::shared_ptr<Completion> writer = tensor.storage()->completion();
    if (writer && writer->native_stream() != stream.native() && !writer->reached())
        backend(stream.device()).wait(stream, writer->event());
}

} // namespace

void copy_tensor(const Tensor &source, const Tensor &target, const std::shared_ptr<Stream> &stream) {
    check_tensors(source, target);
    const DeviceId from = source.device(), to = target.device();
    const DeviceId working = to.is_cpu() ? from : to;
    if (stream && stream->device() != from && stream->device() != to)
        fail(Code::Device, "copy: from %s to %s, on a stream of %s", text(from).c_str(), text(to).c_str(),
             text(stream->device()).c_str());
    if (working.is_cpu()) {
        if (stream)
            stream->call([source, target] { copy_now(source, target); });
        else
            copy_now(source, target);
        return;
    }
    if (!stream || stream->device().is_cpu()) {
        wait_for(source);
        wait_for(target);
    } else {
        order_after(*stream, source);
        order_after(*stream, target);
    }
    const DeviceId runs_on = stream && !stream->device().is_cpu() ? stream->device() : working;
    if (stream && stream->device().is_cpu()) { // in the order of the host's stream
        stream->call([=] { backend(runs_on).copy(target.data(), to, source.data(), from, source.bytes(), nullptr); });
        return;
    }
    backend(runs_on).copy(target.data(), to, source.data(), from, source.bytes(), stream.get());
    if (!stream)
        return;
    target.storage()->set_completion(gpu::gpu_backend(stream->device()).work_so_far(*stream));
    stream->call([source, target] {}); // keeps them
}

} // namespace tessera::core
