// A vendor library of the process: looked for once, at the first use, and never closed.
#pragma once

#include <dlfcn.h>

#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "device/gpu/library.h"

namespace tessera::core::gpu {

// An opened library, and its functions by symbol; DeviceError for one that it has not.
class LibrarySymbols {
  public:
    // Opens the last of `files` that can be, else the first of the usual names.
    template <size_t count>
    LibrarySymbols(const char *name, const std::vector<std::string> &files, const char *const (&usual)[count]) : name_(name) {
        std::vector<const char *> names;
        for (auto file = files.rbegin(); file != files.rend(); ++file)
            names.push_back(file->c_str());
        names.insert(names.end(), std::begin(usual), std::end(usual));
        library_ = open_library(name, names.data(), names.size(), file_);
    }

    template <class Function> void load(Function &function, const char *symbol) const {
        function = reinterpret_cast<Function>(::dlsym(library_, symbol));
        if (!function)
            fail(Code::Device, "%s is no %s: it has no %s", file_.c_str(), name_, symbol);
    }

    const std::string &file() const { return file_; }

  private:
    const char *name_;
    void *library_ = nullptr;
    std::string file_;
};

template <class Library> class LibrarySlot {
  public:
    explicit LibrarySlot(const char *name) : name_(name) {}

    // Loads the library at the first call; null where there is none, and `why` says so.
    const Library *get(std::string *why) {
        std::lock_guard<std::mutex> hold(lock_);
        if (!tried_) {
            tried_ = true;
            try {
                library_ = std::make_unique<Library>(files_);
                why_.clear();
            } catch (const Error &e) {
                why_ = e.message();
            }
        }
        if (why)
            *why = why_;
        return library_.get();
    }

    // A file to look in before the others; "" forgets them. ArgumentError when the library is loaded already.
    void add_file(const std::string &file) {
        std::lock_guard<std::mutex> hold(lock_);
        if (library_)
            fail(Code::Argument, "%s is loaded already (%s); name another file before the first use", name_,
                 library_->file().c_str());
        if (file.empty())
            files_.clear();
        else
            files_.push_back(file);
        tried_ = false;
    }

  private:
    const char *name_;
    std::mutex lock_;
    std::vector<std::string> files_;
    bool tried_ = false;
    std::unique_ptr<Library> library_;
    std::string why_;
};

// The contexts of a library for the devices, each made at its first use and kept.
class LibraryHandles {
  public:
    // `make` is called with the device current.
    template <class Make> Handle get(int device, Make make) const {
        std::lock_guard<std::mutex> hold(lock_);
        const auto index = static_cast<size_t>(device);
        if (handles_.size() <= index)
            handles_.resize(index + 1);
        if (!handles_[index])
            make(&handles_[index]);
        return handles_[index];
    }

  private:
    mutable std::mutex lock_;
    mutable std::vector<Handle> handles_;
};

} // namespace tessera::core::gpu
