// cuBLASLt, NVIDIA's library of matrix products: loaded at run time, where it is installed. Declared here is what is used,
// so that no header of it is needed to build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "device/cuda/library_slot.h"
#include "device/gpu/driver.h"

namespace tessera::core::gpu {

// cublasLtMatmulAlgo_t: which kernel, and how it is run.
struct CublasltAlgorithm {
    uint64_t words[8];
};

// cublasLtMatmulHeuristicResult_t.
struct CublasltChoice {
    CublasltAlgorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(CublasltChoice) == 96, "cublasLtMatmulHeuristicResult_t");

#define TSR_CUBLASLT_FUNCTIONS(X)                                                                                        \
    X(create, (Handle *handle), "cublasLtCreate")                                                                        \
    X(create_product, (Handle *product, int compute, int scale), "cublasLtMatmulDescCreate")                             \
    X(destroy_product, (Handle product), "cublasLtMatmulDescDestroy")                                                    \
    X(set_product, (Handle product, int attribute, const void *value, size_t bytes), "cublasLtMatmulDescSetAttribute")   \
    X(create_layout, (Handle *layout, int type, uint64_t rows, uint64_t columns, int64_t step), "cublasLtMatrixLayoutCreate") \
    X(destroy_layout, (Handle layout), "cublasLtMatrixLayoutDestroy")                                                    \
    X(set_layout, (Handle layout, int attribute, const void *value, size_t bytes), "cublasLtMatrixLayoutSetAttribute")   \
    X(create_preference, (Handle *preference), "cublasLtMatmulPreferenceCreate")                                         \
    X(destroy_preference, (Handle preference), "cublasLtMatmulPreferenceDestroy")                                        \
    X(set_preference, (Handle preference, int attribute, const void *value, size_t bytes),                               \
      "cublasLtMatmulPreferenceSetAttribute")                                                                            \
    X(choose, (Handle handle, Handle product, Handle a, Handle b, Handle c, Handle d, Handle preference, int wanted,     \
               CublasltChoice *choices, int *found), "cublasLtMatmulAlgoGetHeuristic")                                   \
    X(multiply, (Handle handle, Handle product, const void *alpha, const void *a, Handle a_layout, const void *b,        \
                 Handle b_layout, const void *beta, const void *c, Handle c_layout, void *d, Handle d_layout,            \
                 const CublasltAlgorithm *algorithm, void *workspace, size_t workspace_bytes, Handle stream),            \
      "cublasLtMatmul")

// The library; lives as long as the process.
class Cublaslt {
  public:
    explicit Cublaslt(const std::vector<std::string> &files);
    Cublaslt(const Cublaslt &) = delete;
    Cublaslt &operator=(const Cublaslt &) = delete;

#define TSR_CUBLASLT_MEMBER(member, parameters, symbol) int(*member) parameters = nullptr;
    TSR_CUBLASLT_FUNCTIONS(TSR_CUBLASLT_MEMBER)
#undef TSR_CUBLASLT_MEMBER

    const std::string &file() const { return file_; }
    size_t version() const { return version_; } // 130100: 13.1
    // The library's context for a device, made at the first use and kept. DeviceError.
    Handle handle(int device) const;
    // Throws a DeviceError for a status unless it is success.
    void check(int status, const char *what) const;

  private:
    std::string file_;
    size_t version_ = 0;
    LibraryHandles handles_;
};

// The library, loaded at the first call; null where there is none, and `why` says so.
const Cublaslt *cublaslt(std::string *why = nullptr);

// A file to look for the library in, before those named earlier and before the system's places; "" forgets all that were
// named. ArgumentError when the library is loaded already.
void add_cublaslt_file(const std::string &file);

} // namespace tessera::core::gpu
