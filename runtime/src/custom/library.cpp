// Loading shared libraries of operators.
#include <dlfcn.h>
#include <sys/stat.h>

#include <cstddef>
#include <map>
#include <mutex>

#include "custom/registry.h"

namespace tessera::custom {

using core::Code;
using core::fail;

namespace {

constexpr const char *entry_name = "tessera_custom_library";

// The libraries that are loaded for good, with the names of their operators.
struct Loaded {
    std::mutex lock;
    std::map<void *, std::vector<std::string>> names;
};

Loaded &loaded() {
    static Loaded *const instance = new Loaded;
    return *instance;
}

// A handle of dlopen that is closed unless the library is kept.
class Handle {
  public:
    explicit Handle(void *handle) : handle_(handle) {}
    ~Handle() {
        if (handle_)
            dlclose(handle_);
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    void *get() const { return handle_; }
    void keep() { handle_ = nullptr; }

  private:
    void *handle_;
};

void *open(const std::string &path) {
    struct stat status {};
    const bool there = stat(path.c_str(), &status) == 0;
    // A name without a slash would be searched for elsewhere.
    const std::string file = there && path.find('/') == std::string::npos ? "./" + path : path;
    if (void *handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL))
        return handle;
    const char *reason = dlerror();
    const std::string why = reason ? reason : "unknown reason";
    if (!there)
        fail(Code::FileAccess, "load_library: %s cannot be opened: %s", path.c_str(), why.c_str());
    if (why.find("undefined symbol: tsr_") != std::string::npos)
        fail(Code::Version, "load_library: %s needs a newer Tessera than this one (%s): %s", path.c_str(), tsr_version(),
             why.c_str());
    fail(Code::Format, "load_library: %s cannot be loaded: %s", path.c_str(), why.c_str());
}

const tsr_custom_library &described(const std::string &path, void *handle) {
    const auto entry = reinterpret_cast<tsr_custom_library_entry>(dlsym(handle, entry_name));
    if (!entry)
        fail(Code::Format,
             "load_library: %s holds no operators: it does not export %s; declare them with TESSERA_OPERATOR of "
             "tessera/custom_op.h",
             path.c_str(), entry_name);
    const tsr_custom_library *library = nullptr;
    tsr_set_error(TSR_OK, "");
    if (const tsr_status status = entry(TSR_CUSTOM_ABI_VERSION, &library))
        throw core::Error(static_cast<Code>(status),
                          core::format("load_library: %s: %s", path.c_str(), tsr_last_error()));
    if (!library || library->size < offsetof(tsr_custom_library, ops) + sizeof library->ops || library->abi_version < 1)
        fail(Code::Format, "load_library: %s: its description is malformed", path.c_str());
    if (library->abi_version > TSR_CUSTOM_ABI_VERSION)
        fail(Code::Version,
             "load_library: %s was built for version %d of the operator ABI, this Tessera (%s) has version %d: "
             "update Tessera, or build the library with the headers of this one",
             path.c_str(), library->abi_version, tsr_version(), TSR_CUSTOM_ABI_VERSION);
    if (library->op_count < 1 || !library->ops)
        fail(Code::Format, "load_library: %s declares no operator", path.c_str());
    return *library;
}

} // namespace

std::vector<std::string> load_library(const std::string &path) {
    Handle handle(open(path));
    Loaded &all = loaded();
    {
        std::lock_guard<std::mutex> hold(all.lock);
        const auto found = all.names.find(handle.get());
        if (found != all.names.end())
            return found->second;
    }
    // Without the lock: what a library does when it describes itself is its own affair.
    const tsr_custom_library &library = described(path, handle.get());
    std::vector<std::unique_ptr<const Definition>> definitions;
    std::vector<std::string> names;
    for (int32_t i = 0; i < library.op_count; ++i) {
        if (!library.ops[i])
            fail(Code::Format, "load_library: %s: operator %d is null", path.c_str(), i);
        definitions.push_back(std::make_unique<const Definition>(*library.ops[i], path));
        names.push_back(definitions.back()->name());
    }
    std::lock_guard<std::mutex> hold(all.lock);
    const auto found = all.names.find(handle.get());
    if (found != all.names.end()) // another thread was faster
        return found->second;
    add(std::move(definitions));
    all.names.emplace(handle.get(), names);
    handle.keep();
    return names;
}

} // namespace tessera::custom
