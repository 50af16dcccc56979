// Operators as the C++ front end knows them: the counterpart of Python's tessera.op.opdef. Type rules of primitives are
// in graph/infer.h and their kernels in ops/; a definition adds the gradient, and for a composite the body.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/thread_pool.h"
#include "front/node.h"

namespace tessera::front {

inline constexpr const char *rng_state = "tessera.rng";

struct Definition {
    std::string name;
    // A composite as a graph of other operators, one value per result; its types and, without `vjp`, its gradient follow.
    std::function<Values(const Values &operands, const Attributes &attrs)> body;
    // The gradient of each operand (an empty Value: none) from those of the results (empty: zero). A composite's may give
    // no list at all: then it follows from the body.
    std::function<Values(const NodePtr &node, const Values &gradients)> vjp;
    // Why there is no gradient; empty when there is one.
    std::string no_gradient;
    // For an operator from outside (not a primitive, no body): its types and how it runs.
    std::function<std::vector<TensorType>(const std::vector<TensorType> &operands, const Attributes &attrs)> infer;
    std::function<void(const Attributes &attrs, const std::vector<core::TensorView> &operands,
                       const std::vector<core::TensorView> &results, core::ThreadPool *pool)>
        run;
};

// The definition of an operator; null when there is none.
const Definition *find_definition(std::string_view name);
// All operators of this library, by name.
const std::map<std::string, Definition, std::less<>> &definitions();

// Where operators with "::" in their names are found (custom operators). The lookup may be called from any thread and
// what it returns stays valid. Set once, before the first use.
using ExternalLookup = const Definition *(*)(std::string_view name);
void set_external_operators(ExternalLookup lookup);

// Applies an operator: a node with its types, at the current location. NameMissingError for an unknown operator, else
// what its type rule throws, with the user's line.
Values apply(std::string_view op, Values operands, Attributes attrs);
// The same for an operator with one result.
Value build(std::string_view op, Values operands, Attributes attrs = {});

// Runs the operator of a node on concrete operands; results are written.
void run_operator(const Node &node, const std::vector<core::TensorView> &operands,
                  const std::vector<core::TensorView> &results, core::ThreadPool *pool);

// Definitions of the families, collected by `definitions`.
class Registry {
  public:
    Definition &add(const std::string &name);
    // A primitive or composite with gradient rule.
    void gradient(const std::string &name, std::function<Values(const NodePtr &, const Values &)> vjp);
    void no_gradient(const std::string &name, const std::string &reason);
    void body(const std::string &name, std::function<Value(const Values &, const Attributes &)> body);
    // The body of a composite with several results.
    void bodies(const std::string &name, std::function<Values(const Values &, const Attributes &)> bodies);
    std::map<std::string, Definition, std::less<>> &all() { return all_; }

  private:
    std::map<std::string, Definition, std::less<>> all_;
};
void define_pointwise(Registry &registry);
void define_reductions(Registry &registry);
void define_shapes(Registry &registry);
void define_indexing(Registry &registry);
void define_products(Registry &registry);
void define_grouped_matmul(Registry &registry);
void define_einsum(Registry &registry);
void define_activations(Registry &registry);
void define_softmax(Registry &registry);
void define_normalization(Registry &registry);
void define_losses(Registry &registry);
void define_cross_entropy(Registry &registry);
void define_attention(Registry &registry);
void define_random(Registry &registry);

} // namespace tessera::front
