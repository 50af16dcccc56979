#include "exec/library_call.h"

#include "core/error.h"
#include "exec/attention_call.h"
#include "exec/prepared.h"
#include "exec/product_call.h"

namespace tessera::core {

namespace {

// Looks for a library once; `why` there is none that works on the device.
template <class Library>
void find(const Library *&found, const Library *(*load)(std::string *), int device, std::string &why) {
    if (found || !why.empty() || !(found = load(&why)))
        return;
    try {
        found->handle(device);
    } catch (const Error &e) { // such as a driver that is older than the library
        found = nullptr;
        why = e.message();
    }
}

} // namespace

Libraries find_libraries(const Plan &plan, int device, const std::string &where) {
    Libraries out;
    out.device = device;
    std::string no_cublaslt, no_cudnn;
    for (const Instruction &in : plan.instructions) {
        if (in.kind != InstructionKind::Library)
            continue;
        const bool product = in.matmul != nullptr;
        if (product)
            find(out.cublaslt, gpu::cublaslt, device, no_cublaslt);
        else
            find(out.cudnn, gpu::cudnn, device, no_cudnn);
        const bool missing = product ? !out.cublaslt : !out.cudnn;
        if (missing && in.otherwise.empty())
            fail(Code::Device, "%s: %s: %s; install it, name its file in %s, or compile with libraries=[]", where.c_str(),
                 in.what.c_str(), (product ? no_cublaslt : no_cudnn).c_str(),
                 product ? "TESSERA_CUBLASLT_LIBRARY" : "TESSERA_CUDNN_LIBRARY");
    }
    return out;
}

std::shared_ptr<LibraryCall> LibraryCall::prepare(const Libraries &libraries, const Instruction &in,
                                                  const std::vector<int64_t> &sizes, const std::vector<int64_t> &elements,
                                                  std::string &why) {
    why = "is missing";
    if (in.matmul && libraries.cublaslt) {
        why = "has no code for this product";
        return ProductCall::prepare(libraries, in, sizes, elements);
    }
    if (in.attention && libraries.cudnn) {
        std::string reason;
        std::shared_ptr<LibraryCall> out = AttentionCall::prepare(libraries, in, sizes, elements, reason);
        why = "has no code for this attention (" + reason + ")";
        return out;
    }
    return nullptr;
}

bool is_empty(const Instruction &in, const std::vector<int64_t> &sizes) {
    auto none = [&](const Dim &d) { return not_negative(d, sizes, "size") == 0; };
    if (in.matmul)
        return none(in.matmul->rows) || none(in.matmul->columns) || none(in.matmul->batch);
    const LibraryAttention &a = *in.attention;
    return none(a.batch) || (none(a.heads) && none(a.shared)) || (none(a.length) && !a.gradient);
}

} // namespace tessera::core
