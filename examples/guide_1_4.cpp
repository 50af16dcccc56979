// Guide §1.4, as printed.
#include <tessera/runtime.h>
using namespace tessera;

int main() {
    // Create a tensor
    Tensor A = Tensor::create({1024, 1024}, DType::BF16);

    // Define an operator (MatMul)
    Tensor B = Tensor::create({1024, 1024}, DType::BF16);
    Tensor C = op::matmul(A, B);

    // Execute
    Runtime rt;
    rt.submit(C);
    rt.wait();

    return 0;
}
