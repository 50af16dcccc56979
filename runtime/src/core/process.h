// Whether this process is the one that made an object, or a child of fork, in which the object's threads do not exist.
#pragma once

#include <sys/types.h>

namespace tessera::core {

class ProcessMark {
  public:
    ProcessMark();
    ~ProcessMark();
    ProcessMark(const ProcessMark &) = delete;
    ProcessMark &operator=(const ProcessMark &) = delete;

    // One load where the kernel can clear a page in children of fork (Linux 4.14), else a system call.
    bool is_here() const { return page_ ? *page_ != 0 : is_same_process(); }
    // UnsupportedError in a child of fork: "the process was forked …; make a new <what> in the child".
    void check(const char *what) const;

  private:
    bool is_same_process() const;
    volatile char *page_ = nullptr;
    const pid_t process_;
};

} // namespace tessera::core
