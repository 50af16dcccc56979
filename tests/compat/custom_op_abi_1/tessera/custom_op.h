// Writing operators in C++. One declaration states everything about an operator:
//
//   TESSERA_OPERATOR(mylib, scale) {                                        // "mylib::scale"
//       declare.doc("x times a factor.")
//           .arguments({"x", {"factor", 2.0}})                              // names, and defaults of attributes
//           .shape([](const TensorType &x, double factor) { return x; })
//           .cpu([](const Context &context, const Input &x, double factor, const Output &y) { ... })
//           .gradient([](const Gradient &g, const Tensor &x, double factor) { return op::mul(g.of(), factor); })
//           .shard("*->*")
//           .sample({random({3, 4})});
//   }
//
// Compiled to a shared library that is linked with Tessera::tessera, its operators are there after load_library, in
// Python and in C++. The signature is deduced from the shape function: operands are `TensorType` (or a vector of them),
// attributes bool, int64_t, double, std::string, DType, Dim, vectors and std::optional of these; it returns a TensorType,
// or a std::array, std::pair or std::tuple of them. Kernels and gradient take the same parameters, operands as `Input`
// and `Tensor`, sizes as int64_t. What they throw becomes a typed error at the caller that names operator and line.
#ifndef TESSERA_CUSTOM_OP_H
#define TESSERA_CUSTOM_OP_H

#include <deque>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "tessera/custom/call.h"
#include "tessera/custom_op_abi.h"
#include "tessera/library.h"

namespace tessera {
// Hidden: several libraries, built with different versions of this header, may be in one process.
namespace custom __attribute__((visibility("hidden"))) {

// The name of a parameter, and the default of an attribute.
struct Argument {
    Argument(const char *n) : name(n) {} // NOLINT: a name is an argument
    Argument(const char *n, const op::AttributeValue &value) : name(n), standard(value.text()) {}
    std::string name, standard;
};

// One operand of a sample: its shape; `kind` "float" (the dtype under test), "index" (i64), or the name of a dtype;
// elements are drawn uniformly from [low, high).
struct Random {
    std::vector<int64_t> shape;
    std::string kind;
    double low, high;
};
inline Random random(std::vector<int64_t> shape, std::string kind = "float", double low = -2, double high = 2) {
    return {std::move(shape), std::move(kind), low, high};
}

// Whether the gradient of a sample is checked, and by how much its differences may exceed the usual ones.
struct SampleOptions {
    bool gradient = true;
    double tolerance = 1;
};

// What an operator declares; each function may be called once, in any order.
class Operator {
  public:
    explicit Operator(std::string name) : name_(std::move(name)) {}
    Operator(const Operator &) = delete;
    Operator &operator=(const Operator &) = delete;

    // The names of the shape function's parameters in order, with the defaults of attributes.
    Operator &arguments(std::vector<Argument> arguments) { return arguments_ = std::move(arguments), *this; }
    // The names of the results; by default "result", or "result_0", "result_1", ...
    Operator &results(std::vector<std::string> names) { return results_ = std::move(names), *this; }
    Operator &doc(std::string text) { return doc_ = std::move(text), *this; }
    // Part of the hash by which an artefact knows its operators: change it when results mean something else.
    Operator &version(std::string text) { return version_ = std::move(text), *this; }
    // The dtypes that operands may have: all of them, or the one named.
    Operator &dtypes(std::vector<DType> accepted) { return dtypes_ = std::move(accepted), *this; }
    Operator &dtypes(const std::string &argument, std::vector<DType> accepted) {
        argument_dtypes_.emplace_back(argument, std::move(accepted));
        return *this;
    }
    // How dimensions may be split over devices, as a factor string: "bik,bkj->bij"; without one, not at all.
    Operator &shard(std::string factors) { return shard_ = std::move(factors), *this; }

    // Types of operands and attributes to types of results. Sizes may be symbolic.
    template <class F> Operator &shape(F function) {
        signature_ = detail::signature_of<F>();
        result_count_ = detail::ResultCount<typename detail::Function<F>::Result>::value;
        infer_ = [function](const tsr_custom_types *call) {
            detail::TypesReader reader(*call, detail::tensor_count<F>());
            detail::give_results(*call, detail::invoke(function, reader));
        };
        return *this;
    }
    // Bytes of scratch memory that the kernel needs, from the parameters of the shape function.
    template <class F> Operator &scratch(F function) {
        check_signature("the function for scratch memory", detail::signature_of<F>());
        scratch_ = [function](const tsr_custom_types *call) {
            detail::TypesReader reader(*call, detail::tensor_count<F>());
            tsr_dim *bytes = Dim(detail::invoke(function, reader)).to_handle();
            const tsr_status status = call->give_scratch(call, bytes);
            tsr_dim_release(bytes);
            check(status);
        };
        return *this;
    }
    // The kernels: (const Context &, operands as Input and attributes in the order of the shape function, results as
    // Output). Memory is row-major; on a GPU it is the device's, and work goes to context.stream().
    template <class F> Operator &cpu(F function) { return kernel("the CPU kernel", cpu_, function); }
    template <class F> Operator &cuda(F function) { return kernel("the CUDA kernel", cuda_, function); }
    template <class F> Operator &hip(F function) { return kernel("the HIP kernel", hip_, function); }

    // (const Gradient &, operands as Tensor and attributes): the gradient of each operand, built with op:: functions; an
    // empty Tensor where there is none.
    template <class F> Operator &gradient(F function) {
        check_signature("the gradient", detail::signature_of<F>());
        gradient_ = [function](const tsr_custom_gradient *call) {
            detail::GradientReader reader(*call, detail::tensor_count<F>());
            detail::give_gradients(*call, detail::invoke(function, reader));
        };
        return *this;
    }
    // The gradient is another operator, of the operands and the results' gradients, with the same attributes; it has a
    // result for each floating-point operand.
    Operator &gradient(const char *name) { return gradient_op_ = name, *this; }
    // Why there is no gradient.
    Operator &no_gradient(std::string reason) { return no_gradient_ = std::move(reason), *this; }

    // Operands and attributes on which `tessera op-check` tries the operator.
    Operator &sample(const std::vector<Random> &operands, const op::AttributeList &attributes = {},
                     SampleOptions options = {}) {
        std::string text = samples_.empty() ? "[" : samples_ + ", ";
        text += "{\"inputs\": [";
        for (size_t i = 0; i < operands.size(); ++i) {
            std::string shape;
            for (int64_t size : operands[i].shape)
                shape += (shape.empty() ? "" : ", ") + std::to_string(size);
            text += std::string(i ? ", " : "") + "{\"shape\": [" + shape + "], \"kind\": " +
                    op::detail::quoted(operands[i].kind) + ", \"low\": " + op::detail::real_text(operands[i].low) +
                    ", \"high\": " + op::detail::real_text(operands[i].high) + "}";
        }
        text += "], \"attributes\": " + op::detail::quoted(op::detail::attributes_text(attributes)) +
                ", \"gradient\": " + (options.gradient ? "true" : "false") +
                ", \"tolerance\": " + op::detail::real_text(options.tolerance) + "}";
        samples_ = text;
        return *this;
    }

    // The declaration for the C ABI; valid as long as this.
    const tsr_custom_op &finish() {
        if (!infer_)
            malformed("declares no shape function");
        for (const auto &[what, signature] : checks_)
            if (std::string reason = detail::difference(signature_, signature); !reason.empty())
                malformed(what + " " + reason);
        for (const auto &[what, count] : output_counts_)
            if (count != result_count_)
                malformed(what + " has " + std::to_string(count) + " outputs, the shape function gives " +
                          std::to_string(result_count_) + " results");
        schema_ = schema_text();
        if (!samples_.empty())
            samples_ += "]";
        op_.size = sizeof op_;
        op_.name = name_.c_str();
        op_.schema = schema_.c_str();
        op_.doc = doc_.c_str();
        op_.version = version_.c_str();
        op_.shard = shard_.empty() ? nullptr : shard_.c_str();
        op_.samples = samples_.empty() ? nullptr : samples_.c_str();
        op_.gradient_op = gradient_op_.empty() ? nullptr : gradient_op_.c_str();
        op_.no_gradient = no_gradient_.empty() ? nullptr : no_gradient_.c_str();
        op_.context = this;
        op_.infer = [](void *self, const tsr_custom_types *call) {
            return detail::guarded([&] {
                static_cast<Operator *>(self)->infer_(call);
                if (static_cast<Operator *>(self)->scratch_)
                    static_cast<Operator *>(self)->scratch_(call);
            });
        };
        if (cpu_)
            op_.cpu = run<&Operator::cpu_>;
        if (cuda_)
            op_.cuda = run<&Operator::cuda_>;
        if (hip_)
            op_.hip = run<&Operator::hip_>;
        if (gradient_)
            op_.gradient = [](void *self, const tsr_custom_gradient *call) {
                return detail::guarded([&] { static_cast<Operator *>(self)->gradient_(call); });
            };
        return op_;
    }

  private:
    using Kernel = std::function<void(const tsr_custom_call *)>;

    template <Kernel Operator::*kernel> static tsr_status run(void *self, const tsr_custom_call *call) {
        return detail::guarded([&] { (static_cast<Operator *>(self)->*kernel)(call); });
    }

    template <class F> Operator &kernel(const char *what, Kernel &slot, F function) {
        check_signature(what, detail::signature_of<F>());
        output_counts_.emplace_back(what, detail::output_count<F>());
        slot = [function](const tsr_custom_call *call) {
            detail::CallReader reader(*call, detail::tensor_count<F>());
            detail::invoke(function, reader);
        };
        return *this;
    }

    void check_signature(const char *what, std::vector<std::string> signature) {
        checks_.emplace_back(what, std::move(signature));
    }

    [[noreturn]] void malformed(const std::string &what) const { throw Error(TSR_FORMAT_ERROR, name_ + ": " + what); }

    std::string schema_text() const {
        if (arguments_.size() != signature_.size())
            malformed("arguments() names " + std::to_string(arguments_.size()) + " parameters, the shape function has " +
                      std::to_string(signature_.size()));
        std::string out = "(";
        for (size_t i = 0; i < signature_.size(); ++i)
            out += (i ? ", " : "") + arguments_[i].name + ": " + type_text(i) +
                   (arguments_[i].standard.empty() ? "" : " = " + arguments_[i].standard);
        out += ") -> (";
        if (!results_.empty() && results_.size() != result_count_)
            malformed("results() names " + std::to_string(results_.size()) + ", the shape function gives " +
                      std::to_string(result_count_));
        for (size_t i = 0; i < result_count_; ++i)
            out += (i ? ", " : "") + (!results_.empty()      ? results_[i]
                                      : result_count_ == 1 ? std::string("result")
                                                           : "result_" + std::to_string(i));
        return out + ")";
    }

    std::string type_text(size_t i) const {
        const std::string &type = signature_[i];
        if (type.compare(0, 6, "tensor") != 0)
            return type;
        std::vector<DType> accepted = dtypes_;
        for (const auto &entry : argument_dtypes_)
            if (entry.first == arguments_[i].name)
                accepted = entry.second;
        std::string list;
        for (DType d : accepted)
            list += (list.empty() ? "(" : "|") + std::string(tessera::name(d));
        return "tensor" + list + (list.empty() ? "" : ")") + type.substr(6);
    }

    std::string name_, doc_, version_ = "1", shard_, samples_, gradient_op_, no_gradient_, schema_;
    std::vector<Argument> arguments_;
    std::vector<std::string> results_, signature_;
    std::vector<DType> dtypes_;
    std::vector<std::pair<std::string, std::vector<DType>>> argument_dtypes_;
    std::vector<std::pair<std::string, std::vector<std::string>>> checks_;
    std::vector<std::pair<std::string, size_t>> output_counts_;
    size_t result_count_ = 0;
    std::function<void(const tsr_custom_types *)> infer_, scratch_;
    Kernel cpu_, cuda_, hip_;
    std::function<void(const tsr_custom_gradient *)> gradient_;
    tsr_custom_op op_{};
};

namespace detail {

// One TESSERA_OPERATOR; they form a list, built before main or by dlopen.
struct Declared {
    Declared(const char *n, void (*f)(Operator &), const char *place) : name(n), declare(f), where(place), next(first()) {
        first() = this;
    }
    const char *name;
    void (*declare)(Operator &);
    const char *where;
    Declared *next;

    static Declared *&first() {
        static Declared *head = nullptr;
        return head;
    }
};

// All operators of this library, finished.
struct Library {
    Library() {
        for (const Declared *d = Declared::first(); d; d = d->next) {
            try {
                operators.emplace_front(d->name);
                d->declare(operators.front());
                ops.insert(ops.begin(), &operators.front().finish());
            } catch (const Error &e) {
                throw Error(e.code(), std::string(e.what()) + "\n  at " + d->where);
            }
        }
        library = {sizeof library, TSR_CUSTOM_ABI_VERSION, static_cast<int32_t>(ops.size()), ops.data()};
    }
    // Made at the first use, never destroyed: operators may run while the process ends.
    static const Library &instance() {
        static const Library *const made = new Library;
        return *made;
    }

    std::deque<Operator> operators;
    std::vector<const tsr_custom_op *> ops;
    tsr_custom_library library{};
};

} // namespace detail

// Registers the operators that are declared in this program itself, rather than in a shared library; `name` says where
// they come from in messages. Once in a process.
inline void register_operators(const std::string &name) {
    for (const tsr_custom_op *op : detail::Library::instance().ops)
        check(tsr_custom_op_register(op, name.c_str()));
}

} // namespace custom
} // namespace tessera

// What load_library looks for.
extern "C" __attribute__((visibility("default"), used)) inline tsr_status
tessera_custom_library(int32_t, const tsr_custom_library **library) {
    return tessera::custom::detail::guarded(
        [&] { *library = &tessera::custom::detail::Library::instance().library; });
}

#define TESSERA_TEXT_OF_(x) #x
#define TESSERA_TEXT_OF(x) TESSERA_TEXT_OF_(x)
#define TESSERA_OPERATOR_(library, name)                                                                               \
    static void tessera_declare_##library##_##name(::tessera::custom::Operator &declare);                             \
    static const ::tessera::custom::detail::Declared tessera_declared_##library##_##name(                             \
        #library "::" #name, &tessera_declare_##library##_##name, __FILE__ ":" TESSERA_TEXT_OF(__LINE__));            \
    static void tessera_declare_##library##_##name([[maybe_unused]] ::tessera::custom::Operator &declare)

// Declares the operator library::name; a function body follows, in which `declare` is the Operator.
#define TESSERA_OPERATOR(library, name) TESSERA_OPERATOR_(library, name)

#endif
