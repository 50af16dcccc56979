// A communicator as Python sees it.
#pragma once

#include "handles.h"

namespace tessera::python {

struct Communicator {
    Owner<tsr_communicator, tsr_communicator_release> handle;
};

} // namespace tessera::python
