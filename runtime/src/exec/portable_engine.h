// Executes a graph of primitives operator by operator, without native code from the file.
#pragma once

#include <string_view>

#include "exec/engine.h"
#include "ops/program.h"

namespace tessera::core {

class PortableEngine : public Engine {
  public:
    explicit PortableEngine(std::string_view text) : program_(portable::Program::parse(text)) {}
    explicit PortableEngine(portable::Program program) : program_(std::move(program)) {}

    const Signature &signature() const override { return program_.signature(); }
    void give(std::string_view symbol, int64_t size) override { program_.give(symbol, size); }
    void check(const Tensor *const *inputs, size_t input_count, const Tensor *outputs) override;
    void run(RunContext &context, const StateTable &table, const Tensor *const *inputs, size_t input_count,
             Tensor *outputs) override;
    Requirements requirements(const std::vector<int64_t> &sizes) override;

  private:
    portable::Program program_;
};

} // namespace tessera::core
