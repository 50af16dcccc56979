// What a run works with: threads, memory, order, and who watches it.
#pragma once

#include <memory>

#include "core/allocator.h"
#include "core/cancel.h"
#include "core/completion.h"
#include "core/thread_pool.h"
#include "exec/workspace.h"

namespace tessera::core {

class Communicator;
class Log;
class Stream;
class TraceSink;

struct RunContext {
    ThreadPool &pool;
    // All memory that the run makes; never null. Shared with the tensors that live in it.
    std::shared_ptr<Allocator> allocator;
    // On the CPU a run is executed when its turn has come: on this thread, now. On a GPU its work is put on this stream,
    // which is never null, and not waited for.
    Stream *stream = nullptr;
    // The same when it is the runtime's and not the caller's: memory may be made and released in its order.
    std::shared_ptr<Stream> own_stream = nullptr;
    // Whether outputs that are made lie in host memory when all inputs do; else they lie on the device of the run.
    bool outputs_follow_inputs = false;
    WorkspaceCache *workspaces = nullptr; // idle memory of the runtime, for arena and scratch
    Workspace *workspace = nullptr;       // the caller's, to be used instead; null: none
    const CancelFlag *cancel = nullptr;   // null: cannot be cancelled
    TraceSink *trace = nullptr;           // null: nobody watches
    Communicator *communicator = nullptr; // of this rank; null: one device
    const Log *log = nullptr;             // null: nobody listens
    // An engine that is not the CPU's sets it: when its work is done, and what may still go wrong.
    std::shared_ptr<Pending> pending = nullptr;

    // Between instructions, before the first that writes state: CancelledError when the caller wants the run to stop.
    void check_cancelled() const {
        if (cancel)
            cancel->check();
    }
};

} // namespace tessera::core
