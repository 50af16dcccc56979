#include "collective/mpi/library.h"

#include <dlfcn.h>

#include <mutex>

#include "core/error.h"

namespace tessera::core::mpi {

namespace {

constexpr const char *names[] = {"libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.so"};

void *open(const std::string &file) {
    if (!file.empty()) {
        if (void *handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL))
            return handle;
        const char *why = ::dlerror();
        fail(Code::Device, "the MPI library cannot be loaded: %s", why ? why : file.c_str());
    }
    for (const char *name : names) // the one that is there already first: a process has one MPI
        if (void *handle = ::dlopen(name, RTLD_NOW | RTLD_NOLOAD))
            return handle;
    for (const char *name : names)
        if (void *handle = ::dlopen(name, RTLD_NOW | RTLD_GLOBAL))
            return handle;
    fail(Code::Device,
         "there is no MPI library with the standard ABI (%s) on this machine; install one (pip install 'mpich>=5', whose "
         "library lies in lib/ of the Python environment) and put its folder into LD_LIBRARY_PATH, or give its file",
         names[0]);
}

template <class Function> void find(void *handle, const char *name, Function &function) {
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    if (!function)
        fail(Code::Device, "the MPI library has no function %s; it must follow the standard ABI of MPI 5", name);
}

Library load(const std::string &file) {
    void *handle = open(file);
    Library out{};
    find(handle, "MPI_Init_thread", out.Init_thread);
    find(handle, "MPI_Initialized", out.Initialized);
    find(handle, "MPI_Finalized", out.Finalized);
    find(handle, "MPI_Finalize", out.Finalize);
    find(handle, "MPI_Query_thread", out.Query_thread);
    find(handle, "MPI_Comm_dup", out.Comm_dup);
    find(handle, "MPI_Comm_free", out.Comm_free);
    find(handle, "MPI_Comm_rank", out.Comm_rank);
    find(handle, "MPI_Comm_size", out.Comm_size);
    find(handle, "MPI_Comm_set_errhandler", out.Comm_set_errhandler);
    find(handle, "MPI_Isend", out.Isend);
    find(handle, "MPI_Irecv", out.Irecv);
    find(handle, "MPI_Test", out.Test);
    find(handle, "MPI_Cancel", out.Cancel);
    find(handle, "MPI_Request_free", out.Request_free);
    find(handle, "MPI_Error_string", out.Error_string);
    int (*abi_version)(int *, int *);
    find(handle, "MPI_Abi_get_version", abi_version);
    int major = 0, minor = 0;
    abi_version(&major, &minor);
    if (major != 1)
        fail(Code::Device, "the MPI library has ABI version %d.%d; version 1 of the standard ABI is needed", major, minor);
    return out;
}

} // namespace

void Library::check(int code, const char *function) const {
    if (code == success)
        return;
    char text[max_error_string + 1] = "";
    int length = 0;
    if (Error_string(code, text, &length) != success)
        length = 0;
    fail(Code::Device, "%s: %.*s", function, length, text);
}

const Library &library(const std::string &file) {
    static std::mutex lock;
    static const Library *loaded = nullptr; // never unloaded: MPI keeps threads and memory of its own
    std::lock_guard<std::mutex> hold(lock);
    if (!loaded)
        loaded = new Library(load(file));
    return *loaded;
}

} // namespace tessera::core::mpi
