// Messages for the caller's log.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::core {

enum class LogLevel : int32_t { Debug = 0, Info = 1, Warning = 2, Error = 3 };

class Log {
  public:
    using Function = void (*)(void *context, int32_t level, const char *message);
    Log(Function function, void *context, LogLevel least) : function_(function), context_(context), least_(least) {}
    bool wants(LogLevel level) const { return function_ && level >= least_; }
    void write(LogLevel level, const std::string &message) const {
        if (wants(level))
            function_(context_, static_cast<int32_t>(level), message.c_str());
    }

  private:
    Function function_;
    void *context_;
    LogLevel least_;
};

} // namespace tessera::core
