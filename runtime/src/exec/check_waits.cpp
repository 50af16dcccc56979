#include "exec/check_waits.h"

#include <unordered_map>

#include "core/error.h"

namespace tessera::core {

namespace {

// How many exchanges under way have a buffer as operand, and as result.
struct Use {
    int operand = 0, result = 0;
};

struct Accesses {
    std::vector<int> read, written;

    void add(const Plan &plan, const Instruction &in) {
        switch (in.kind) {
        case InstructionKind::Kernel:
            for (size_t i = 0; i < in.buffers.size(); ++i) {
                // GPU kernels do not say what they write.
                const PlanKernel &k = plan.kernels[static_cast<size_t>(in.kernel)];
                const bool known = i < k.buffers && k.writes.has_value();
                (known && k.may_write(i) ? written : read).push_back(in.buffers[i]);
            }
            break;
        case InstructionKind::CheckRange:
            read.insert(read.end(), in.buffers.begin(), in.buffers.end());
            break;
        case InstructionKind::Copy:
            read.push_back(in.buffers[0]);
            written.push_back(in.buffers[1]);
            break;
        case InstructionKind::Zero:
            written.push_back(in.buffers[0]);
            break;
        case InstructionKind::Wait:
            break;
        case InstructionKind::Portable:
        case InstructionKind::Collective:
        case InstructionKind::Custom:
        case InstructionKind::Library:
            for (const PlanOperand &o : in.operands)
                read.push_back(o.buffer);
            for (const PlanOperand &o : in.results)
                written.push_back(o.buffer);
            for (const Instruction &launch : in.then)
                add(plan, launch);
            for (const Instruction &launch : in.otherwise)
                add(plan, launch);
            break;
        }
    }
};

} // namespace

void check_waits(const Plan &plan, const std::string &where) {
    std::unordered_map<int64_t, const Instruction *> under_way;
    std::unordered_map<int64_t, size_t> started; // by number, at which instruction
    std::unordered_map<int, Use> uses;
    for (size_t at = 0; at < plan.instructions.size(); ++at) {
        const Instruction &in = plan.instructions[at];
        auto refuse = [&](const std::string &why) {
            fail(Code::Format, "%s: instruction %zu: %s", where.c_str(), at, why.c_str());
        };
        if (in.kind == InstructionKind::Wait) {
            auto found = under_way.find(*in.exchange);
            if (found == under_way.end())
                refuse(format("waits for exchange %lld, which %s", static_cast<long long>(*in.exchange),
                              started.count(*in.exchange) ? "was waited for before" : "has not been started"));
            --uses[found->second->operands[0].buffer].operand;
            --uses[found->second->results[0].buffer].result;
            under_way.erase(found);
            continue;
        }
        if (!under_way.empty()) {
            Accesses accesses;
            accesses.add(plan, in);
            const bool exchanges = in.kind == InstructionKind::Collective;
            for (int b : accesses.read)
                if (auto u = uses.find(b); !exchanges && u != uses.end() && u->second.result > 0)
                    refuse(format("reads buffer %d before the exchange that fills it is waited for", b));
            for (int b : accesses.written)
                if (auto u = uses.find(b); u != uses.end() && (u->second.result > 0 || u->second.operand > 0))
                    refuse(format("writes buffer %d before the exchange that uses it is waited for", b));
        }
        if (in.kind == InstructionKind::Collective && in.exchange) {
            if (!started.emplace(*in.exchange, at).second)
                refuse(format("starts exchange %lld, whose number is taken", static_cast<long long>(*in.exchange)));
            under_way.emplace(*in.exchange, &in);
            ++uses[in.operands[0].buffer].operand;
            ++uses[in.results[0].buffer].result;
        }
    }
    for (const auto &[number, at] : started)
        if (under_way.count(number))
            fail(Code::Format, "%s: instruction %zu: exchange %lld is never waited for", where.c_str(), at,
                 static_cast<long long>(number));
}

} // namespace tessera::core
