// Tensors on GPUs: copies there and back, and the order between their work and other libraries' streams.
#include "api/graph_handle.h"
#include "api/handles.h"
#include "collective/nccl/library.h"
#include "core/transfer.h"
#include "device/cuda/cublaslt.h"
#include "device/cuda/cudnn.h"
#include "device/gpu/gpu_backend.h"

using namespace tessera::core;

tsr_status tsr_device_library(int32_t device_type, const char *file) {
    return guarded([&] {
        require(file, "file");
        if (device_type == TSR_CUDA)
            gpu::set_cuda_library(file);
        else if (device_type == TSR_ROCM)
            gpu::set_hip_library(file);
        else
            fail(Code::Device, "%s has no driver library", name(static_cast<DeviceType>(device_type)).c_str());
    });
}

tsr_status tsr_vendor_library(const char *library, const char *file) {
    return guarded([&] {
        require(library, "library");
        require(file, "file");
        const std::string name = library;
        if (name == "cublaslt")
            gpu::add_cublaslt_file(file);
        else if (name == "cudnn")
            gpu::add_cudnn_file(file);
        else if (name == "nccl" || name == "rccl")
            add_nccl_file(name == "nccl" ? DeviceType::CUDA : DeviceType::ROCM, file);
        else
            fail(Code::Argument, "the vendor library '%s' is not known; use 'cublaslt', 'cudnn', 'nccl' or 'rccl'",
                 shown(library).c_str());
    });
}

tsr_status tsr_vendor_library_version(const char *library, int64_t *version) {
    return guarded([&] {
        require(library, "library");
        require(version, "version");
        auto version_of = [](const auto *found) { return found ? static_cast<int64_t>(found->version()) : 0; };
        const std::string name = library;
        *version = name == "cublaslt" ? version_of(gpu::cublaslt()) : name == "cudnn" ? version_of(gpu::cudnn()) : 0;
    });
}

tsr_status tsr_device_architecture(int32_t device_type, int32_t device_index, tsr_text **name) {
    return guarded([&] {
        require(name, "name");
        const DeviceId device{static_cast<DeviceType>(device_type), device_index};
        *name = new tsr_text{gpu::gpu_backend(device).properties(device_index).level};
    });
}

tsr_status tsr_device_stream(int32_t device_type, int32_t device_index, void **native_stream) {
    return guarded([&] {
        require(native_stream, "native_stream");
        const DeviceId device{static_cast<DeviceType>(device_type), device_index};
        *native_stream = gpu::gpu_backend(device).home(device_index)->native();
    });
}

tsr_status tsr_graph_device(const tsr_graph *graph, int32_t *device_type, int32_t *device_index) {
    return guarded([&] {
        require(graph, "graph");
        require(device_type, "device_type");
        require(device_index, "device_index");
        *device_type = static_cast<int32_t>(graph->program->device().type);
        *device_index = graph->program->device().index;
    });
}

tsr_status tsr_tensor_to(tsr_tensor *tensor, int32_t device_type, int32_t device_index, tsr_tensor **there) {
    return guarded([&] {
        require(tensor, "tensor");
        require(there, "there");
        const DeviceId device{static_cast<DeviceType>(device_type), device_index};
        backend(device);
        const Tensor value = tensor->concrete();
        if (value.device() == device && value.is_contiguous() && !tensor->lazy) {
            tensor->retain();
            *there = tensor;
        } else {
            *there = new tsr_tensor(to_device(value, device));
        }
    });
}

tsr_status tsr_tensor_wait(tsr_tensor *tensor) {
    return guarded([&] {
        require(tensor, "tensor");
        wait_for(tensor->concrete());
    });
}

tsr_status tsr_tensor_order_after(tsr_tensor *tensor, void *native_stream) {
    return guarded([&] {
        require(tensor, "tensor");
        const Tensor value = tensor->concrete();
        std::shared_ptr<Completion> writer = value.storage()->completion();
        if (value.device().is_cpu() || !writer || writer->native_stream() == native_stream)
            return;
        gpu::GpuBackend &b = gpu::gpu_backend(value.device());
        b.wait(*b.wrap_stream(value.device().index, native_stream), writer->event());
    });
}

tsr_status tsr_tensor_written_on(tsr_tensor *tensor, void *native_stream) {
    return guarded([&] {
        require(tensor, "tensor");
        const Tensor value = tensor->concrete();
        if (value.device().is_cpu())
            return;
        gpu::GpuBackend &b = gpu::gpu_backend(value.device());
        value.storage()->set_completion(b.work_so_far(*b.wrap_stream(value.device().index, native_stream)));
    });
}
