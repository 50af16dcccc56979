// A graph of cuDNN's operations on tensors of four dimensions, and the plan by which it is computed.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "device/cuda/cudnn.h"

namespace tessera::core::gpu {

// cudnnDataType_t
enum class CudnnType : int { F32 = 0, F16 = 2, I32 = 4, BF16 = 9, Bool = 11 };

// cudnnPointwiseMode_t
enum class CudnnFunction : int {
    Add = 0,
    Multiply = 1,
    Divide = 6,
    Subtract = 9,
    Exp = 13,
    Log = 15,
    Identity = 21,
    GreaterEqual = 303,
    Index = 501,
    Select = 601,
};

// cudnnReduceTensorOp_t
enum class CudnnReduction : int { Add = 0, Max = 3 };

class CudnnGraph {
  public:
    using Sizes = std::array<int64_t, 4>;
    struct Tensor {
        int64_t number = 0;
        CudnnType type = CudnnType::F32;
        Sizes shape{}, steps{}; // steps in elements
    };

    CudnnGraph(const Cudnn &library, int device);
    ~CudnnGraph();
    CudnnGraph(const CudnnGraph &) = delete;
    CudnnGraph &operator=(const CudnnGraph &) = delete;

    // A tensor whose address is given to `run`, in the order of these calls; row-major unless steps are given.
    Tensor memory(CudnnType type, const Sizes &shape);
    Tensor memory(CudnnType type, const Sizes &shape, const Sizes &steps);
    // A tensor that is nowhere.
    Tensor inside(CudnnType type, const Sizes &shape);
    Tensor inside(CudnnType type, const Sizes &shape, const Sizes &steps);
    Tensor number(float value);

    // Operations, each with its result. DeviceError when the library refuses one.
    void multiply(const Tensor &a, const Tensor &b, const Tensor &out);
    void apply(CudnnFunction function, std::initializer_list<Tensor> operands, const Tensor &out,
               CudnnType computed = CudnnType::F32);
    // The position along an axis, for every element of x.
    void index(const Tensor &x, int64_t axis, const Tensor &out);
    void reduce(CudnnReduction reduction, const Tensor &x, const Tensor &out);
    // The same memory with another shape.
    void view(const Tensor &x, const Tensor &out);

    // Takes the library's best plan that needs no more workspace. DeviceError when there is none.
    void finish(size_t most_workspace);
    size_t workspace() const { return workspace_; }
    // Puts the graph on a stream. DeviceError.
    void run(const std::vector<void *> &addresses, void *workspace, Handle stream) const;

  private:
    Handle make(int type);
    void set(Handle descriptor, int attribute, int type, int64_t count, const void *values) const;
    void link(Handle descriptor, int attribute, Handle other) const { set(descriptor, attribute, 15, 1, &other); }
    Tensor tensor(CudnnType type, const Sizes &shape, const Sizes &steps, bool is_inside, bool is_value);
    Handle function(CudnnFunction function, CudnnType computed, int64_t axis);
    Handle of(const Tensor &t) const { return tensors_[static_cast<size_t>(t.number)]; }
    void add(Handle operation);
    std::vector<Handle> proposals(int mode);
    bool take(Handle proposal, size_t most_workspace, std::string &why);

    const Cudnn &library_;
    const int device_;
    std::vector<Handle> made_;       // all descriptors, destroyed last first
    std::vector<Handle> tensors_, operations_;
    std::vector<int64_t> in_memory_, numbers_; // numbers of tensors
    std::vector<float> values_;      // of `numbers_`
    Handle graph_ = nullptr, plan_ = nullptr;
    size_t workspace_ = 0;
};

} // namespace tessera::core::gpu
