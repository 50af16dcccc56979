// The same for a PyTorch AOTInductor package: `aoti_bench FILE ROWS COLUMNS SECONDS`. Each thread has an input of its own;
// the package's runner allocates the outputs.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "measure.h"

int main(int count, char **arguments) {
    if (count != 5)
        return 2;
    const int64_t rows = std::atoll(arguments[2]), columns = std::atoll(arguments[3]);
    const double limit = std::atof(arguments[4]);
    // Four model instances, so that four threads may run at once.
    torch::inductor::AOTIModelPackageLoader loader(arguments[1], "model", false, 4);
    auto make_caller = [&] {
        at::set_num_threads(1); // of the calling thread
        auto mode = std::make_shared<c10::InferenceMode>();
        std::vector<at::Tensor> inputs = {torch::zeros({rows, columns})};
        return [&loader, mode, inputs] { loader.run(inputs); };
    };
    std::printf("{\"run\": %s, \"rates\": {", time_of(limit, make_caller()).c_str());
    for (int threads : {1, 2, 4})
        std::printf("%s\"%d\": {\"run\": %.0f}", threads > 1 ? ", " : "", threads, rate(threads, limit, make_caller));
    std::printf("}}\n");
    return 0;
}
