#include "exec/plan.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <unordered_set>

#include "core/error.h"
#include "core/json.h"
#include "custom/registry.h"
#include "exec/check_waits.h"
#include "exec/read_library.h"
#include "graph/parser.h"

namespace tessera::core {

namespace {

// 1: the first; 2: collectives that are started, and waits.
constexpr int64_t plan_version = 3;
constexpr int64_t first_plan_version = 1;
constexpr int64_t max_exchange = INT32_MAX;
constexpr size_t max_symbols = 1024;
// What lies right before every entry of an image, followed by the numbers of buffers and sizes (u32, little-endian).
constexpr std::string_view entry_mark = "\xcctessera";
constexpr int64_t mark_bytes = 16;

class PlanReader : private PlanFields {
  public:
    PlanReader(const std::string &where, std::string_view image, Plan &plan)
        : PlanFields(where, &plan.signature.symbols), image_(image), plan_(plan) {}

    void read(const Json &root) {
        expect(root.is_object(), "the plan", "is not an object");
        read_version(root);
        plan_.level = text(root, "level", "the plan");
        const std::string target = text(root, "target", "the plan");
        expect(target == plan_.target, "the plan", "has target '" + shown(target) + "', expected '" + plan_.target + "'");
        read_symbols(root);
        read_buffers(root);
        Signature &s = plan_.signature;
        read_tensors(root, "inputs", BufferKind::Input, s.inputs);
        read_tensors(root, "outputs", BufferKind::Output, s.outputs);
        read_tensors(root, "state", BufferKind::State, s.state);
        read_tensors(root, "constants", BufferKind::Constant, s.constants);
        check_bindings();
        if (plan_.is_gpu()) {
            read_modules(root);
            read_gpu_kernels(root);
        } else {
            read_kernels(root);
        }
        const Json &instructions = list(root, "instructions", "the plan");
        for (size_t i = 0; i < instructions.items().size(); ++i)
            plan_.instructions.push_back(read_instruction(instructions.items()[i], format("instruction %zu", i)));
        check_waits(plan_, where_);
        plan_.arena = dim(member(root, "arena", "the plan"), "arena");
        read_checks(root);
    }

  private:
    DType dtype(const Json &object, const std::string &place) const {
        DType out;
        std::string name = text(object, "dtype", place);
        expect(parse_dtype(name, out), place, "unknown dtype '" + shown(name) + "'");
        return out;
    }

    int buffer(const Json &j, const std::string &place) const {
        expect(j.is_integer() && j.as_integer() >= 0 && j.as_integer() < static_cast<int64_t>(plan_.buffers.size()), place,
               format("a buffer index is outside [0, %zu)", plan_.buffers.size()));
        return static_cast<int>(j.as_integer());
    }

    void read_version(const Json &root) const {
        int64_t version = integer(root, "version", "the plan");
        if (version > plan_version)
            fail(Code::Version, "%s: the plan has version %lld, this build of Tessera reads versions up to %lld",
                 where_.c_str(), static_cast<long long>(version), static_cast<long long>(plan_version));
        expect(version >= first_plan_version, "the plan", "has an unknown version");
    }

    void read_symbols(const Json &root) {
        const Json &entries = list(root, "dims", "the plan");
        expect(entries.items().size() <= max_symbols, "dims", "too many symbolic dimensions");
        for (const Json &j : entries.items()) {
            auto symbol = std::make_shared<Symbol>();
            symbol->name = text(j, "name", "dims");
            symbol->min = integer(j, "min", "dims");
            symbol->multiple_of = integer(j, "multiple_of", "dims");
            if (const Json &max = member(j, "max", "dims"); !max.is_null())
                symbol->max = integer(j, "max", "dims");
            symbol->index = static_cast<int>(plan_.signature.symbols.size());
            std::string place = "dimension '" + shown(symbol->name) + "'";
            expect(is_symbol_name(symbol->name), place, "is not a usable name");
            expect(!find_symbol(plan_.signature.symbols, symbol->name), place, "occurs twice");
            expect(symbol->min >= 0 && symbol->multiple_of >= 1 && (!symbol->max || *symbol->max >= symbol->min), place,
                   "min, max and multiple_of are not a range of sizes");
            plan_.signature.symbols.push_back(std::move(symbol));
        }
    }

    void read_buffers(const Json &root) {
        const Json &entries = list(root, "buffers", "the plan");
        for (size_t i = 0; i < entries.items().size(); ++i) {
            const Json &j = entries.items()[i];
            std::string place = format("buffer %zu", i);
            PlanBuffer b;
            b.kind = buffer_kind(text(j, "kind", place), place);
            b.bytes = dim(member(j, "bytes", place), place);
            b.label = optional_text(j, "label", place);
            if (b.kind == BufferKind::Arena) {
                b.offset = dim(member(j, "offset", place), place);
                expect(b.offset.is_multiple(tensor_alignment), place, "the offset is not a multiple of 64");
                if (const Json *whole = j.find("within"))
                    b.within = buffer(*whole, place);
            }
            plan_.buffers.push_back(std::move(b));
        }
    }

    BufferKind buffer_kind(const std::string &name, const std::string &place) const {
        constexpr const char *names[] = {"input", "output", "state", "constant", "arena"};
        for (int i = 0; i < 5; ++i)
            if (name == names[i])
                return static_cast<BufferKind>(i);
        error(place, "unknown kind '" + shown(name) + "'");
    }

    void read_tensors(const Json &root, const char *name, BufferKind kind, std::vector<TensorSpec> &out) {
        const Json &entries = list(root, name, "the plan");
        std::unordered_set<std::string> seen;
        for (size_t i = 0; i < entries.items().size(); ++i) {
            const Json &j = entries.items()[i];
            std::string place = format("%s[%zu]", name, i);
            TensorSpec spec;
            spec.name = text(j, "name", place);
            spec.dtype = dtype(j, place);
            spec.shape = shape(j, place);
            spec.trainable = flag(j, "trainable", place);
            spec.mutated = flag(j, "mutated", place);
            spec.buffer = buffer(member(j, "buffer", place), place);
            expect(seen.insert(spec.name).second, place, "the name '" + shown(spec.name) + "' occurs twice");
            bool fixed = kind == BufferKind::State || kind == BufferKind::Constant;
            expect(!fixed || !spec.is_symbolic(), place, "state and constants have constant shapes");
            PlanBuffer &b = plan_.buffers[static_cast<size_t>(spec.buffer)];
            expect(b.kind == kind, place, format("buffer %d is of another kind", spec.buffer));
            expect(b.binding < 0, place, format("buffer %d belongs to another tensor", spec.buffer));
            b.binding = static_cast<int>(i);
            out.push_back(std::move(spec));
        }
    }

    void check_bindings() const {
        for (size_t i = 0; i < plan_.buffers.size(); ++i)
            expect(plan_.buffers[i].kind == BufferKind::Arena || plan_.buffers[i].binding >= 0, format("buffer %zu", i),
                   "no tensor has it");
    }

    void read_kernels(const Json &root) {
        const Json &entries = list(root, "kernels", "the plan");
        for (size_t i = 0; i < entries.items().size(); ++i) {
            std::string place = format("kernel %zu", i);
            PlanKernel k;
            k.name = text(entries.items()[i], "name", place);
            k.entry = integer(entries.items()[i], "entry", place);
            place += " ('" + shown(k.name) + "')";
            expect(k.entry >= 0 && static_cast<uint64_t>(k.entry) < image_.size(), place,
                   format("entry %lld lies outside the kernel image of %zu bytes", static_cast<long long>(k.entry),
                          image_.size()));
            read_mark(k, place);
            read_writes(k, entries.items()[i], place);
            plan_.kernels.push_back(std::move(k));
        }
    }

    // Without the mark, a wrong offset would make the program jump into the middle of code.
    void read_mark(PlanKernel &k, const std::string &place) const {
        size_t start = static_cast<size_t>(k.entry - mark_bytes);
        expect(k.entry >= mark_bytes && image_.compare(start, entry_mark.size(), entry_mark) == 0, place,
               format("entry %lld is not the start of a kernel", static_cast<long long>(k.entry)));
        const char *numbers = image_.data() + start + entry_mark.size();
        std::memcpy(&k.buffers, numbers, sizeof k.buffers);
        std::memcpy(&k.sizes, numbers + sizeof k.buffers, sizeof k.sizes);
    }

    void read_modules(const Json &root) {
        const Json &entries = list(root, "modules", "the plan");
        for (size_t i = 0; i < entries.items().size(); ++i) {
            const Json &j = entries.items()[i];
            std::string place = format("module %zu", i);
            GpuModule m;
            m.offset = integer(j, "offset", place);
            m.bytes = integer(j, "bytes", place);
            m.alternative = flag(j, "alternative", place);
            const std::string name = text(j, "format", place);
            expect(name == "cubin" || name == "ptx" || name == "hsaco", place, "unknown format '" + shown(name) + "'");
            m.format = name == "cubin" ? CodeFormat::Cubin : name == "ptx" ? CodeFormat::Ptx : CodeFormat::Hsaco;
            const auto size = static_cast<int64_t>(image_.size());
            expect(m.offset >= 0 && m.bytes > 0 && m.offset <= size && m.bytes <= size - m.offset, place,
                   format("does not lie in the image of %zu bytes", image_.size()));
            expect(!m.alternative || i > 0, place, "is an alternative to nothing");
            plan_.modules.push_back(m);
        }
    }

    // An integer in [low, high].
    void read_gpu_kernels(const Json &root) {
        const Json &entries = list(root, "kernels", "the plan");
        for (size_t i = 0; i < entries.items().size(); ++i) {
            const Json &j = entries.items()[i];
            std::string place = format("kernel %zu", i);
            PlanKernel kernel;
            GpuKernel &k = kernel.gpu;
            kernel.name = text(j, "name", place);
            place += " ('" + shown(kernel.name) + "')";
            k.module = static_cast<size_t>(bounded(j, "module", 0, static_cast<int64_t>(plan_.modules.size()) - 1, place));
            expect(!plan_.modules[k.module].alternative, place, "names an alternative module");
            k.symbol = text(j, "symbol", place);
            k.threads = static_cast<uint32_t>(bounded(j, "threads", 1, 1024, place));
            k.shared = static_cast<uint32_t>(bounded(j, "shared", 0, 1 << 20, place));
            k.scratch = j.find("scratch") ? bounded(j, "scratch", 0, int64_t{1} << 40, place) : 0;
            k.early = flag(j, "early", place);
            if (j.find("cluster")) {
                const Json &cluster = list(j, "cluster", place);
                expect(cluster.items().size() == 3, place, "'cluster' needs three sizes");
                for (size_t d = 0; d < 3; ++d) {
                    const Json &size = cluster.items()[d];
                    expect(size.is_integer() && size.as_integer() >= 1 && size.as_integer() <= 16, place,
                           "a size of 'cluster' is outside [1, 16]");
                    k.cluster[d] = static_cast<uint32_t>(size.as_integer());
                }
            }
            for (const Json &a : list(j, "arguments", place).items())
                k.arguments.push_back(read_argument(a, k, place));
            kernel.buffers = k.buffers;
            kernel.sizes = k.sizes;
            plan_.kernels.push_back(std::move(kernel));
        }
    }

    static constexpr int64_t max_arguments = 4096;

    GpuArgument read_argument(const Json &j, GpuKernel &kernel, const std::string &place) const {
        expect(j.is_object(), place, "an argument is not an object");
        GpuArgument a;
        if (j.find("buffer")) {
            a.index = static_cast<uint32_t>(bounded(j, "buffer", 0, max_arguments, place));
            kernel.buffers = std::max(kernel.buffers, a.index + 1);
        } else if (j.find("size")) {
            const std::string type = text(j, "type", place);
            expect(type == "i32" || type == "i64", place, "a size of type '" + shown(type) + "'");
            a.kind = type == "i32" ? GpuArgumentKind::SizeI32 : GpuArgumentKind::SizeI64;
            a.index = static_cast<uint32_t>(bounded(j, "size", 0, max_arguments, place));
            kernel.sizes = std::max(kernel.sizes, a.index + 1);
        } else if (j.find("constant")) {
            const std::string type = text(j, "type", place);
            expect(type == "i32" || type == "i64", place, "a constant of type '" + shown(type) + "'");
            a.kind = type == "i32" ? GpuArgumentKind::ConstantI32 : GpuArgumentKind::ConstantI64;
            a.constant = type == "i32" ? bounded(j, "constant", INT32_MIN, INT32_MAX, place) : integer(j, "constant", place);
        } else if (const Json *map = j.find("tensor_map")) {
            a.kind = GpuArgumentKind::TensorMap;
            expect(plan_.target == "ptx", place, "tensor maps are for NVIDIA devices");
            a.index = static_cast<uint32_t>(bounded(*map, "buffer", 0, max_arguments, place));
            kernel.buffers = std::max(kernel.buffers, a.index + 1);
            read_tensor_map(*map, a.map, kernel, place);
        } else if (j.find("global_scratch")) {
            a.kind = GpuArgumentKind::GlobalScratch;
        } else if (j.find("profile_scratch")) {
            a.kind = GpuArgumentKind::ProfileScratch;
        } else if (j.find("status")) {
            const std::string what = text(j, "status", place);
            expect(what == "flag" || what == "check", place, "an argument 'status' of '" + shown(what) + "'");
            a.kind = what == "flag" ? GpuArgumentKind::StatusFlag : GpuArgumentKind::StatusCheck;
        } else {
            error(place, "an argument is of no known kind");
        }
        return a;
    }

    // Integers, {"size": i} or {"size": i, "times": c}.
    std::vector<GpuNumber> numbers(const Json &object, const char *name, GpuKernel &kernel, const std::string &place) const {
        std::vector<GpuNumber> out;
        for (const Json &j : list(object, name, place).items())
            out.push_back(number(j, kernel, place));
        return out;
    }

    GpuNumber number(const Json &j, GpuKernel &kernel, const std::string &place) const {
        GpuNumber n;
        if (j.is_integer()) {
            n.constant = j.as_integer();
            expect(n.constant >= 0, place, "a number of a tensor map is negative");
        } else {
            n.size = static_cast<int32_t>(bounded(j, "size", 0, max_arguments, place));
            n.constant = j.find("times") ? bounded(j, "times", 1, INT32_MAX, place) : 1;
            kernel.sizes = std::max(kernel.sizes, static_cast<uint32_t>(n.size) + 1);
        }
        return n;
    }

    void read_tensor_map(const Json &j, GpuTensorMap &map, GpuKernel &kernel, const std::string &place) const {
        map.dtype = dtype(j, place);
        map.shape = numbers(j, "shape", kernel, place);
        map.strides = numbers(j, "strides", kernel, place);
        const size_t rank = map.shape.size();
        expect(rank >= 1 && rank <= 5, place, "a tensor map has a rank of 1 to 5");
        const Json &box = list(j, "box", place);
        expect(map.strides.size() == rank && box.items().size() == rank, place, "a tensor map's lists differ in length");
        for (const Json &b : box.items()) {
            expect(b.is_integer() && b.as_integer() >= 1 && b.as_integer() <= 256, place, "a box size is outside [1, 256]");
            map.box.push_back(b.as_integer());
        }
        map.swizzle = j.find("swizzle") ? integer(j, "swizzle", place) : 0;
        expect(map.swizzle == 0 || map.swizzle == 32 || map.swizzle == 64 || map.swizzle == 128, place,
               "'swizzle' is none of 0, 32, 64, 128");
        if (const Json *start = j.find("start"))
            map.start = number(*start, kernel, place);
    }

    // The operands, sizes and grid of a launch.
    void read_launch(const Json &j, const std::string &place, Instruction &in) const {
        in.kernel = static_cast<int>(bounded(j, "kernel", 0, static_cast<int64_t>(plan_.kernels.size()) - 1, place));
        const GpuKernel &k = plan_.kernels[static_cast<size_t>(in.kernel)].gpu;
        in.buffers.clear();
        for (const Json &b : list(j, "buffers", place).items())
            in.buffers.push_back(buffer(b, place));
        in.sizes = dims(j, "sizes", place);
        expect(in.buffers.size() >= k.buffers && in.sizes.size() >= k.sizes, place,
               format("kernel '%s' takes %u buffers and %u sizes, the call gives %zu and %zu",
                      shown(plan_.kernels[static_cast<size_t>(in.kernel)].name).c_str(), k.buffers, k.sizes, in.buffers.size(),
                      in.sizes.size()));
        const std::vector<Dim> grid = dims(j, "grid", place);
        expect(grid.size() == 3, place, "'grid' needs three sizes");
        in.grid = grid[0];
        in.grid_y = grid[1];
        in.grid_z = grid[2];
    }

    // Which arguments a kernel writes; older files have no such list.
    void read_writes(PlanKernel &k, const Json &j, const std::string &place) const {
        if (!j.find("writes"))
            return;
        k.writes.emplace(k.buffers, false);
        for (const Json &position : list(j, "writes", place).items()) {
            expect(position.is_integer() && position.as_integer() >= 0 && position.as_integer() < k.buffers, place,
                   "'writes' names an argument that does not exist");
            (*k.writes)[static_cast<size_t>(position.as_integer())] = true;
        }
    }

    Instruction read_instruction(const Json &j, const std::string &place) const {
        expect(j.is_object(), place, "is not an object");
        Instruction in;
        in.loc = optional_text(j, "loc", place);
        if (const Json *b = j.find("check_range"))
            read_check_range(j, *b, place, in);
        else if (j.find("kernel"))
            read_kernel_call(j, place, in);
        else if (j.find("copy"))
            read_copy(j, place, in);
        else if (const Json *target = j.find("zero")) {
            in.kind = InstructionKind::Zero;
            in.buffers = {writable(*target, place)};
            in.bytes = dim(member(j, "bytes", place), place);
        } else if (j.find("portable"))
            read_portable(j, place, in);
        else if (j.find("collective"))
            read_collective(j, place, in);
        else if (j.find("wait")) {
            in.kind = InstructionKind::Wait;
            in.exchange = bounded(j, "wait", 0, max_exchange, place);
        } else if (j.find("custom"))
            read_custom(j, place, in);
        else if (j.find("library"))
            read_library(j, place, in);
        else
            error(place, "is of no known kind");
        return in;
    }

    void read_kernel_call(const Json &j, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::Kernel;
        if (plan_.is_gpu()) {
            read_launch(j, place, in);
            return;
        }
        int64_t kernel = integer(j, "kernel", place);
        expect(kernel >= 0 && kernel < static_cast<int64_t>(plan_.kernels.size()), place,
               format("kernel index %lld is outside [0, %zu)", static_cast<long long>(kernel), plan_.kernels.size()));
        in.kernel = static_cast<int>(kernel);
        for (const Json &b : list(j, "buffers", place).items())
            in.buffers.push_back(buffer(b, place));
        in.sizes = dims(j, "sizes", place);
        const PlanKernel &k = plan_.kernels[static_cast<size_t>(kernel)];
        expect(in.buffers.size() == k.buffers && in.sizes.size() == k.sizes, place,
               format("kernel '%s' takes %u buffers and %u sizes, the call gives %zu and %zu", shown(k.name).c_str(),
                      k.buffers, k.sizes, in.buffers.size(), in.sizes.size()));
        in.grid = dim(member(j, "grid", place), place);
        in.grain = dim(member(j, "grain", place), place);
        const Json *scratch = j.find("scratch");
        in.scratch = scratch ? dim(*scratch, place) : Dim(0);
    }

    void read_check_range(const Json &j, const Json &target, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::CheckRange;
        in.buffers = {buffer(target, place)};
        in.dtype = dtype(j, place);
        expect(is_integer(in.dtype), place, "only integers can be checked");
        in.count = dim(member(j, "count", place), place);
        in.low = dim(member(j, "low", place), place);
        in.high = dim(member(j, "high", place), place);
        if (const Json *ignore = j.find("ignore"); ignore && !ignore->is_null())
            in.ignore = integer(j, "ignore", place);
        in.what = text(j, "what", place);
        if (plan_.is_gpu()) {
            in.checked = in.buffers[0];
            read_launch(j, place, in);
        }
    }

    void read_copy(const Json &j, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::Copy;
        const Json &pair = list(j, "copy", place);
        expect(pair.items().size() == 2, place, "'copy' needs a source and a target");
        in.buffers = {buffer(pair.items()[0], place), writable(pair.items()[1], place)};
        in.bytes = dim(member(j, "bytes", place), place);
    }

    void read_portable(const Json &j, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::Portable;
        expect(!plan_.is_gpu(), place, "a GPU's plan has no portable operators");
        try {
            in.primitive = std::make_shared<portable::Primitive>(text(j, "portable", place), optional_text(j, "attrs", place),
                                                                 plan_.signature.symbols, location(in.loc));
        } catch (const Error &e) {
            error(place, e.message());
        }
        in.operands = operands(j, "operands", place, false);
        in.results = operands(j, "results", place, true);
        expect(in.results.size() == 1, place, "a primitive has one result");
    }

    void read_custom(const Json &j, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::Custom;
        const std::string name = text(j, "custom", place);
        in.definition = &custom::get(name);
        const int32_t device = plan_.target == "ptx" ? TSR_CUDA : plan_.target == "hsaco" ? TSR_ROCM : TSR_CPU;
        if (!in.definition->has_kernel(device))
            fail(Code::Unsupported, "%s: %s: [%s] has no %s kernel; %s has to declare one", where_.c_str(), place.c_str(),
                 name.c_str(), device == TSR_CUDA ? "CUDA" : device == TSR_ROCM ? "HIP" : "CPU",
                 in.definition->library().c_str());
        try {
            in.attributes = graph::parse_attributes(optional_text(j, "attrs", place), plan_.signature.symbols);
            in.definition->schema().complete(name, in.attributes);
        } catch (const Error &e) {
            error(place, e.message());
        }
        in.operands = operands(j, "operands", place, false);
        in.results = operands(j, "results", place, true);
    }

    void read_library(const Json &j, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::Library;
        const std::string library = text(j, "library", place), function = text(j, "function", place);
        expect(plan_.target == "ptx", place, "vendor libraries are for NVIDIA devices");
        const bool product = library == "cublaslt" && function == "matmul";
        expect(product || (library == "cudnn" && (function == "attention" || function == "attention_gradient")), place,
               "the function '" + shown(function) + "' of the library '" + shown(library) + "' is not known");
        in.what = library + " " + function;
        in.operands = operands(j, "operands", place, false);
        in.results = operands(j, "results", place, true);
        in.scratch = dim(member(j, "scratch", place), place);
        const Json &attributes = member(j, "attrs", place);
        if (product)
            in.matmul = std::make_shared<LibraryMatmul>(read_matmul(*this, attributes, in, place));
        else
            in.attention = std::make_shared<LibraryAttention>(
                read_attention(*this, attributes, in, function == "attention_gradient", place));
        in.then = launches(j, "then", place);
        in.otherwise = launches(j, "otherwise", place);
    }

    // Launches that belong to an instruction.
    std::vector<Instruction> launches(const Json &object, const char *name, const std::string &place) const {
        std::vector<Instruction> out;
        if (!object.find(name))
            return out;
        for (const Json &j : list(object, name, place).items()) {
            expect(j.is_object() && j.find("kernel"), place, format("'%s' is no list of kernel calls", name));
            Instruction in;
            in.loc = optional_text(j, "loc", place);
            read_kernel_call(j, place, in);
            out.push_back(std::move(in));
        }
        return out;
    }

    void read_collective(const Json &j, const std::string &place, Instruction &in) const {
        in.kind = InstructionKind::Collective;
        std::string op = text(j, "collective", place);
        expect(Collective::is_collective(op), place, "there is no collective '" + shown(op) + "'");
        try {
            graph::Attributes attrs = graph::parse_attributes(optional_text(j, "attrs", place), plan_.signature.symbols);
            in.collective = std::make_shared<Collective>(Collective::read(op, attrs, in.loc));
        } catch (const Error &e) {
            error(place, e.message());
        }
        in.operands = operands(j, "operands", place, false);
        in.results = operands(j, "results", place, true);
        expect(in.operands.size() == 1 && in.results.size() == 1, place, "a collective has one operand and one result");
        const PlanOperand &x = in.operands[0], &y = in.results[0];
        expect(x.dtype == y.dtype && x.shape.size() == y.shape.size() && x.buffer != y.buffer, place,
               "operand and result do not fit together");
        auto rank = static_cast<int64_t>(x.shape.size());
        bool along = in.collective->kind != CollectiveKind::AllReduce && in.collective->kind != CollectiveKind::Permute;
        expect(!along || (in.collective->dim < rank && in.collective->split_dim < rank), place, "dim is out of range");
        expect(along || x.shape == y.shape, place, "operand and result have different shapes");
        if (j.find("start"))
            in.exchange = bounded(j, "start", 0, max_exchange, place);
    }

    // "train.py:12"
    static std::optional<graph::Location> location(const std::string &loc) {
        size_t colon = loc.rfind(':');
        graph::Location out;
        const char *end = loc.data() + loc.size();
        if (colon == std::string::npos || std::from_chars(loc.data() + colon + 1, end, out.line).ptr != end)
            return std::nullopt;
        out.file = loc.substr(0, colon);
        return out;
    }

    std::vector<PlanOperand> operands(const Json &j, const char *name, const std::string &place, bool written) const {
        std::vector<PlanOperand> out;
        for (const Json &o : list(j, name, place).items()) {
            const Json &b = member(o, "buffer", place);
            out.push_back({written ? writable(b, place) : buffer(b, place), dtype(o, place), shape(o, place)});
        }
        return out;
    }

    // A buffer that an instruction of the runtime's own may write.
    int writable(const Json &j, const std::string &place) const {
        int index = buffer(j, place);
        const PlanBuffer &b = plan_.buffers[static_cast<size_t>(index)];
        bool mutated = b.kind == BufferKind::State && plan_.signature.state[static_cast<size_t>(b.binding)].mutated;
        expect(b.kind == BufferKind::Output || b.kind == BufferKind::Arena || mutated, place,
               format("buffer %d must not be written", index));
        return index;
    }

    void read_checks(const Json &root) {
        if (!root.find("checks"))
            return;
        for (const Json &j : list(root, "checks", "the plan").items())
            plan_.signature.checks.push_back({dim(member(j, "expr", "checks"), "checks"), integer(j, "min", "checks"),
                                              text(j, "message", "checks"), optional_text(j, "loc", "checks")});
    }

    std::string_view image_;
    Plan &plan_;
};

} // namespace

bool Plan::has_collectives() const {
    return std::any_of(instructions.begin(), instructions.end(),
                       [](const Instruction &in) { return in.kind == InstructionKind::Collective; });
}

bool Plan::changes_state() const {
    return std::any_of(signature.state.begin(), signature.state.end(), [](const TensorSpec &s) { return s.mutated; });
}

std::string at_line(const Instruction &in) { return in.loc.empty() ? "" : "\n  at " + in.loc; }

Plan Plan::parse(std::string_view json, const std::string &where, std::string_view image, const std::string &target) {
    Plan plan;
    plan.target = target;
    PlanReader(where, image, plan).read(Json::parse(json, where));
    return plan;
}

} // namespace tessera::core
