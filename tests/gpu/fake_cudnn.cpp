// A cuDNN for tests on machines without a GPU: graphs of operations are computed on the model of GPUs, one operation after
// the other, on tensors of four dimensions.
//
// As the real one it wants descriptors to be complete and in order, proposes no engine for types that it does not know
// (here f16), and has a workspace of its own. What lies in memory must be 16-byte aligned.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fake_cuda/device_model.h"

using namespace fake;
using Handle = void *;

namespace {

constexpr int bad_parameter = 2000, not_supported = 3000, failed = 5000;
constexpr int f32 = 0, f16 = 2, i32 = 4, bf16 = 9;
constexpr size_t asked_workspace = 4096;

struct Descriptor {
    int type = 0;
    bool complete = false;
    std::map<int, std::vector<char>> attributes;
    std::map<int, std::vector<std::shared_ptr<Descriptor>>> links;

    template <class T> std::vector<T> list(int attribute) const {
        const auto found = attributes.find(attribute);
        if (found == attributes.end())
            return {};
        std::vector<T> out(found->second.size() / sizeof(T));
        std::memcpy(out.data(), found->second.data(), out.size() * sizeof(T));
        return out;
    }
    template <class T> T value(int attribute, T otherwise = {}) const {
        const std::vector<T> found = list<T>(attribute);
        return found.empty() ? otherwise : found[0];
    }
    const Descriptor *link(int attribute) const {
        const auto found = links.find(attribute);
        return found == links.end() || found->second.empty() ? nullptr : found->second[0].get();
    }
};

std::map<std::string, int64_t> counts;
std::map<Handle, std::shared_ptr<Descriptor>> alive;
std::string last_error;
int failure = 0;
Handle stream_of_context = nullptr;
using Hold = std::lock_guard<std::recursive_mutex>;
std::recursive_mutex lock; // of all above: threads may each have descriptors
std::atomic<int> users{0};

// The library's context is used, by one thread at a time.
struct InUse {
    InUse() {
        if (users++) {
            Model &model = Model::get();
            const Hold hold(model.lock);
            model.misuse("cuDNN: two threads use a context");
        }
        std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    ~InUse() { --users; }
    InUse(const InUse &) = delete;
    InUse &operator=(const InUse &) = delete;
};

int refuse(int status, const std::string &why) {
    last_error = why;
    return status;
}

size_t item(int type) { return type == f32 || type == i32 ? 4 : type == bf16 || type == f16 ? 2 : 1; }

using Sizes = std::array<int64_t, 4>;

// A tensor's values, by its steps.
struct Values {
    Sizes shape{}, steps{};
    std::vector<float> data;

    float at(Sizes place) const {
        int64_t offset = 0;
        for (size_t d = 0; d < 4; ++d)
            offset += (shape[d] == 1 ? 0 : place[d] * shape[d] / std::max<int64_t>(range[d], 1)) * steps[d];
        return data[static_cast<size_t>(offset)];
    }
    Sizes range{1, 1, 1, 1}; // of the places that `at` is asked for: heads that share are found by it
};

int64_t extent(const Sizes &shape, const Sizes &steps) {
    int64_t last = 0;
    for (size_t d = 0; d < 4; ++d)
        last += (shape[d] - 1) * steps[d];
    return last + 1;
}

template <class Function> void every(const Sizes &shape, Function function) {
    for (int64_t a = 0; a < shape[0]; ++a)
        for (int64_t b = 0; b < shape[1]; ++b)
            for (int64_t c = 0; c < shape[2]; ++c)
                for (int64_t d = 0; d < shape[3]; ++d)
                    function(Sizes{a, b, c, d});
}

float rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// One run of a graph: the values of tensors by number.
struct Run {
    std::shared_ptr<Descriptor> graph;
    std::map<int64_t, uintptr_t> addresses;
    std::map<int64_t, float> numbers; // of those that are given by value, as they were at the call
    uintptr_t workspace = 0;
    int device = 0;
    std::map<int64_t, Values> known;

    static Sizes sizes(const Descriptor *tensor, int attribute) {
        const std::vector<int64_t> found = tensor->list<int64_t>(attribute);
        return {found[0], found[1], found[2], found[3]};
    }

    Values fresh(const Descriptor *tensor) const {
        Values out;
        out.shape = sizes(tensor, 902);
        out.steps = sizes(tensor, 903);
        out.data.resize(static_cast<size_t>(extent(out.shape, out.steps)));
        return out;
    }

    bool reach(const Descriptor *tensor, const Values &v, uintptr_t &address) const {
        const auto found = addresses.find(tensor->value<int64_t>(906));
        if (found == addresses.end() || found->second % 16) {
            Model::get().misuse("cuDNN: a tensor has no address, or one that is not aligned");
            return false;
        }
        address = found->second;
        return Model::get().access(address, v.data.size() * item(tensor->value<int>(901)), device, "cuDNN");
    }

    Values load(const Descriptor *tensor) {
        const auto number = tensor->value<int64_t>(906);
        const auto found = known.find(number);
        if (found != known.end())
            return found->second;
        Values out = fresh(tensor);
        uintptr_t address = 0;
        if (tensor->value<char>(908)) {
            out.data[0] = numbers[number];
        } else if (tensor->value<char>(907)) {
            Model::get().misuse("cuDNN: a tensor is read before it is computed");
        } else if (reach(tensor, out, address)) {
            for (size_t i = 0; i < out.data.size(); ++i)
                out.data[i] = read(address, tensor->value<int>(901), i);
        }
        return out;
    }

    static float read(uintptr_t address, int type, size_t i) {
        if (type == f32)
            return reinterpret_cast<const float *>(address)[i];
        const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(address)[i]) << 16;
        float out;
        std::memcpy(&out, &bits, sizeof out);
        return out;
    }

    void store(const Descriptor *tensor, Values values) {
        const int type = tensor->value<int>(901);
        if (type == bf16)
            for (float &v : values.data)
                v = rounded(v);
        uintptr_t address = 0;
        if (!tensor->value<char>(907) && reach(tensor, values, address)) {
            for (size_t i = 0; i < values.data.size(); ++i)
                if (type == f32) {
                    reinterpret_cast<float *>(address)[i] = values.data[i];
                } else {
                    uint32_t bits;
                    std::memcpy(&bits, &values.data[i], sizeof bits);
                    reinterpret_cast<uint16_t *>(address)[i] = static_cast<uint16_t>(bits >> 16);
                }
        }
        known[tensor->value<int64_t>(906)] = std::move(values);
    }

    template <class Function> void fill(const Descriptor *tensor, Function function) {
        Values out = fresh(tensor);
        every(out.shape, [&](const Sizes &p) {
            int64_t offset = 0;
            for (size_t d = 0; d < 4; ++d)
                offset += p[d] * out.steps[d];
            out.data[static_cast<size_t>(offset)] = function(p);
        });
        store(tensor, std::move(out));
    }

    void multiply(const Descriptor *o) {
        Values a = load(o->link(1520)), b = load(o->link(1521));
        const Descriptor *c = o->link(1522);
        const Sizes shape = sizes(c, 902);
        const int64_t terms = a.shape[3];
        if (terms != b.shape[2] || a.shape[2] != shape[2] || b.shape[3] != shape[3])
            Model::get().misuse("cuDNN: the sizes of a product do not fit");
        a.range = {shape[0], shape[1], shape[2], terms};
        b.range = {shape[0], shape[1], terms, shape[3]};
        fill(c, [&](const Sizes &p) {
            double total = 0;
            for (int64_t t = 0; t < terms; ++t)
                total += static_cast<double>(a.at({p[0], p[1], p[2], t})) * static_cast<double>(b.at({p[0], p[1], t, p[3]}));
            return static_cast<float>(total);
        });
    }

    void apply(const Descriptor *o) {
        const int mode = o->link(750)->value<int>(0);
        const auto axis = static_cast<size_t>(o->link(750)->value<int64_t>(9, 0));
        const Descriptor *out = o->link(753);
        std::vector<Values> given;
        for (int attribute : {751, 752, 758})
            if (const Descriptor *t = o->link(attribute)) {
                given.push_back(load(t));
                given.back().range = sizes(out, 902);
            }
        fill(out, [&](const Sizes &p) {
            const float x = given[0].at(p), y = given.size() > 1 ? given[1].at(p) : 0;
            switch (mode) {
            case 0:
                return x + y;
            case 1:
                return x * y;
            case 6:
                return x / y;
            case 9:
                return x - y;
            case 13:
                return std::exp(x);
            case 15:
                return std::log(x);
            case 21:
                return x;
            case 303:
                return x >= y ? 1.0f : 0.0f;
            case 501:
                return static_cast<float>(p[axis]);
            case 601:
                return given[2].at(p) != 0 ? x : y;
            }
            Model::get().misuse("cuDNN: a function that the model does not know");
            return 0.0f;
        });
    }

    // Sums or the largest over what the result has 1 of; over heads, of those that share.
    void reduce(const Descriptor *o) {
        Values x = load(o->link(1610));
        x.range = x.shape;
        const Descriptor *out = o->link(1611);
        const bool largest = o->link(1612)->value<int>(1600) == 3;
        const Sizes shape = sizes(out, 902);
        Sizes each;
        for (size_t d = 0; d < 4; ++d)
            each[d] = x.shape[d] / shape[d];
        fill(out, [&](const Sizes &p) {
            double total = largest ? -HUGE_VAL : 0;
            every(each, [&](const Sizes &q) {
                Sizes at;
                for (size_t d = 0; d < 4; ++d)
                    at[d] = p[d] * each[d] + q[d];
                const auto v = static_cast<double>(x.at(at));
                total = largest ? std::fmax(total, v) : total + v;
            });
            return static_cast<float>(total);
        });
    }

    void view(const Descriptor *o) {
        Values out = fresh(o->link(2201));
        const Values x = load(o->link(2200));
        if (x.data.size() != out.data.size())
            Model::get().misuse("cuDNN: a view of another size");
        out.data = x.data;
        store(o->link(2201), std::move(out));
    }

    void all() {
        if (!Model::get().access(workspace, asked_workspace, device, "cuDNN's workspace"))
            return;
        std::memset(reinterpret_cast<void *>(workspace), 0x77, asked_workspace);
        for (const auto &o : graph->links[801])
            switch (o->type) {
            case 13:
                apply(o.get());
                break;
            case 19:
                multiply(o.get());
                break;
            case 22:
                reduce(o.get());
                break;
            case 31:
                view(o.get());
                break;
            default:
                Model::get().misuse("cuDNN: an operation that the model does not know");
            }
    }
};

// What each kind of descriptor needs before it is complete.
const std::map<int, std::vector<int>> needed = {
    {0, {0, 1}},
    {4, {200, 201}},
    {5, {401}},
    {13, {750, 751, 753}},
    {15, {800, 801}},
    {16, {1000, 1001, 1003}},
    {17, {900, 901, 902, 903, 906}},
    {18, {1500}},
    {19, {1520, 1521, 1522, 1523}},
    {21, {1600, 1601}},
    {22, {1610, 1611, 1612}},
    {31, {2200, 2201}},
};

// Bytes of an attribute's element by its type.
size_t bytes_of(int type) { return type == 2 ? 1 : type == 3 || type == 5 || type == 0 || type == 6 || type == 15 ? 8 : 4; }

// Whether some tensor of a graph has a type that there is no engine for.
bool is_unknown(const Descriptor &graph) {
    const auto operations = graph.links.find(801);
    for (const auto &o : operations->second)
        for (const auto &[attribute, tensors] : o->links)
            for (const auto &t : tensors)
                if (t->type == 17 && t->value<int>(901) == f16)
                    return true;
    return false;
}

// Engines, plans and graphs are found for a context, and use it.
std::unique_ptr<InUse> user_of(Handle descriptor) {
    int type = 0;
    {
        const Hold hold(lock);
        const auto found = alive.find(descriptor);
        type = found == alive.end() ? 0 : found->second->type;
    }
    return type == 4 || type == 5 || type == 15 ? std::make_unique<InUse>() : nullptr;
}

} // namespace

extern "C" {

size_t cudnnGetVersion() {
    const char *wanted = std::getenv("FAKE_CUDNN_VERSION");
    return wanted ? static_cast<size_t>(std::atoll(wanted)) : 91900;
}
const char *cudnnGetErrorString(int status) {
    return status == bad_parameter ? "CUDNN_STATUS_BAD_PARAM" : status == failed ? "CUDNN_STATUS_EXECUTION_FAILED" : "CUDNN_STATUS_NOT_SUPPORTED";
}
void cudnnGetLastErrorString(char *text, size_t size) { std::snprintf(text, size, "%s", last_error.c_str()); }

int cudnnCreate(Handle *handle) {
    if (std::getenv("FAKE_CUDNN_BROKEN"))
        return refuse(1001, "the driver is too old");
    ++counts["create"];
    static char context;
    *handle = &context;
    return 0;
}
int cudnnSetStream(Handle, Handle stream) {
    stream_of_context = stream;
    return 0;
}

int cudnnBackendCreateDescriptor(int type, Handle *descriptor) {
    const Hold hold(lock);
    auto made = std::make_shared<Descriptor>();
    made->type = type;
    *descriptor = made.get();
    alive[made.get()] = made;
    return 0;
}
int cudnnBackendDestroyDescriptor(Handle descriptor) {
    const Hold hold(lock);
    return alive.erase(descriptor) ? 0 : refuse(bad_parameter, "no descriptor");
}

int cudnnBackendSetAttribute(Handle descriptor, int attribute, int type, int64_t count, const void *values) {
    const Hold hold(lock);
    const auto found = alive.find(descriptor);
    if (found == alive.end() || found->second->complete || !values)
        return refuse(bad_parameter, "a descriptor that cannot be changed");
    Descriptor &d = *found->second;
    const auto *bytes = static_cast<const char *>(values);
    d.attributes[attribute].assign(bytes, bytes + static_cast<size_t>(count) * bytes_of(type));
    d.links.erase(attribute);
    if (type == 15)
        for (int64_t i = 0; i < count; ++i) {
            const auto other = alive.find(static_cast<const Handle *>(values)[i]);
            if (other == alive.end() || !other->second->complete)
                return refuse(bad_parameter, "a descriptor that is not complete");
            d.links[attribute].push_back(other->second);
        }
    return 0;
}

int cudnnBackendFinalize(Handle descriptor) {
    const auto in_use = user_of(descriptor);
    const Hold hold(lock);
    const auto found = alive.find(descriptor);
    const auto wants = found == alive.end() ? needed.end() : needed.find(found->second->type);
    if (wants == needed.end())
        return refuse(bad_parameter, "a descriptor of no known kind");
    Descriptor &d = *found->second;
    for (int attribute : wants->second)
        if (!d.attributes.count(attribute))
            return refuse(bad_parameter, "attribute " + std::to_string(attribute) + " is missing");
    if (d.type == 4 && is_unknown(*d.link(201)))
        return refuse(not_supported, "the model does not know f16");
    d.complete = true;
    return 0;
}

int cudnnBackendGetAttribute(Handle descriptor, int attribute, int, int64_t wanted, int64_t *found, void *values) {
    const auto in_use = user_of(descriptor);
    const Hold hold(lock);
    const auto d = alive.find(descriptor);
    if (d == alive.end() || !d->second->complete)
        return refuse(bad_parameter, "a descriptor that is not complete");
    *found = 1;
    if (attribute == 402) {
        const auto bytes = static_cast<int64_t>(asked_workspace);
        std::memcpy(values, &bytes, sizeof bytes);
        return 0;
    }
    if (attribute != 202)
        return refuse(bad_parameter, "an attribute that the model does not know");
    ++counts["choose"];
    if (wanted) {
        const auto given = alive.find(*static_cast<Handle *>(values));
        if (given == alive.end() || given->second->type != 3)
            return refuse(bad_parameter, "no place for a result");
        given->second->links[201] = d->second->links[201];
        given->second->complete = true;
    }
    return 0;
}

int cudnnBackendExecute(Handle, Handle plan, Handle pack) {
    const InUse in_use;
    Model &model = Model::get();
    const Hold hold(lock), hold_model(model.lock);
    ++counts["execute"];
    if (failure) {
        const int status = failure;
        failure = 0;
        return refuse(status, "as the test wants it");
    }
    const auto p = alive.find(plan), a = alive.find(pack);
    Stream *on = model.stream(stream_of_context);
    if (!on || p == alive.end() || a == alive.end() || !p->second->complete || !a->second->complete)
        return refuse(bad_parameter, "an incomplete call");
    Run run;
    run.graph = p->second->links[401][0]->links[201][0];
    run.device = on->device;
    run.workspace = a->second->value<uintptr_t>(1003);
    const auto numbers = a->second->list<int64_t>(1000);
    const auto addresses = a->second->list<uintptr_t>(1001);
    for (size_t i = 0; i < numbers.size(); ++i)
        run.addresses[numbers[i]] = addresses[i];
    for (const auto &o : run.graph->links[801])
        for (const auto &[attribute, tensors] : o->links)
            for (const auto &t : tensors)
                if (t->type == 17 && t->value<char>(908)) {
                    const auto number = t->value<int64_t>(906);
                    run.numbers[number] = *reinterpret_cast<const float *>(run.addresses[number]);
                }
    model.put(*on, {"cudnnBackendExecute", [run] { Run(run).all(); }});
    return 0;
}

// For tests: "create", "choose", "execute", "alive" (descriptors).
int64_t fake_cudnn_count(const char *what) { return std::string(what) == "alive" ? static_cast<int64_t>(alive.size()) : counts[what]; }
// The next call fails with this status.
void fake_cudnn_fail(int status) { failure = status; }
}
