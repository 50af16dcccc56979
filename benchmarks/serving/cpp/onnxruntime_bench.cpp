// The same for ONNX Runtime's C API: `onnxruntime_bench LIBRARY FILE ROWS COLUMNS RESULTS SECONDS`. The Python wheel holds
// the library but not its header, so what is called is declared here: the table of OrtApi only ever grows at its end, and
// the numbers are the places of the entries in onnxruntime_c_api.h. Inputs and outputs are the caller's memory.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "measure.h"

struct ApiBase {
    const void *const *(*get_api)(uint32_t version);
    const char *(*get_version)();
};

static const void *const *api;

// Calls entry `place` of the table; ends the program when it reports an error.
template <class... Arguments> static void call(int place, Arguments... arguments) {
    auto *function = reinterpret_cast<void *(*)(Arguments...)>(const_cast<void *>(api[place]));
    if (void *status = function(arguments...)) {
        auto *message = reinterpret_cast<const char *(*)(void *)>(const_cast<void *>(api[2]));
        std::fprintf(stderr, "entry %d: %s\n", place, message(status));
        std::exit(1);
    }
}

enum { create_env = 3, create_session = 7, run = 9, create_session_options = 10, set_intra_threads = 24,
       create_tensor = 49, create_cpu_memory_info = 69 };

struct Caller {
    std::vector<float> x, y;
    void *input = nullptr, *output = nullptr;

    Caller(void *memory, int64_t rows, int64_t columns, int64_t results)
        : x(static_cast<size_t>(rows * columns)), y(static_cast<size_t>(rows * results)) {
        const int64_t in[] = {rows, columns}, out[] = {rows, results};
        const int is_float = 1;
        call(create_tensor, memory, static_cast<void *>(x.data()), x.size() * 4, in, size_t{2}, is_float, &input);
        call(create_tensor, memory, static_cast<void *>(y.data()), y.size() * 4, out, size_t{2}, is_float, &output);
    }
    void operator()(void *session) {
        static const char *const inputs[] = {"x"}, *const outputs[] = {"y"};
        const void *given[] = {input};
        call(run, session, static_cast<void *>(nullptr), inputs, given, size_t{1}, outputs, size_t{1}, &output);
    }
};

int main(int count, char **arguments) {
    if (count != 7)
        return 2;
    void *library = ::dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    auto *get_base = library ? reinterpret_cast<const ApiBase *(*)()>(::dlsym(library, "OrtGetApiBase")) : nullptr;
    if (!get_base) {
        std::fprintf(stderr, "%s\n", ::dlerror());
        return 1;
    }
    api = get_base()->get_api(16);
    const int64_t rows = std::atoll(arguments[3]), columns = std::atoll(arguments[4]), results = std::atoll(arguments[5]);
    const double limit = std::atof(arguments[6]);
    void *env = nullptr, *options = nullptr, *session = nullptr, *memory = nullptr;
    const int warnings = 2, arena_allocator = 0, default_memory = 0;
    call(create_env, warnings, "bench", &env);
    call(create_session_options, &options);
    call(set_intra_threads, options, 1);
    call(create_session, env, static_cast<const char *>(arguments[2]), options, &session);
    call(create_cpu_memory_info, arena_allocator, default_memory, &memory);

    auto make_caller = [&] { // a caller stays where it is: the tensors point into it
        return [session, c = std::make_shared<Caller>(memory, rows, columns, results)] { (*c)(session); };
    };
    std::printf("{\"version\": \"%s\", \"run\": %s, \"rates\": {", get_base()->get_version(),
                time_of(limit, make_caller()).c_str());
    for (int threads : {1, 2, 4})
        std::printf("%s\"%d\": {\"run\": %.0f}", threads > 1 ? ", " : "", threads, rate(threads, limit, make_caller));
    std::printf("}}\n");
    return 0;
}
