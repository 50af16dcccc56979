"""ONNX Runtime with io binding: inference only."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cpu.workloads import Prepared, Workload


def _value(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)


def _mlp(work: Workload) -> tuple[list[onnx.NodeProto], list[str], tuple[int, ...]]:
    nodes, value = [], "x"
    for i in range(3):
        out = "y" if i == 2 else f"z{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out]))
        value = out
        if i < 2:
            nodes.append(helper.make_node("Relu", [value], [f"h{i}"]))
            value = f"h{i}"
    return nodes, ["x"], (work.data["x"].shape[0], work.data["w2"].shape[1])


def _pointwise(work: Workload) -> tuple[list[onnx.NodeProto], list[str], tuple[int, ...]]:
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["xs"]),
        helper.make_node("Add", ["xs", "b"], ["z"]),
        helper.make_node("Gelu", ["z"], ["g"]),
        helper.make_node("Add", ["g", "r"], ["y"]),
    ]
    return nodes, ["x", "r"], work.data["x"].shape


_BY_NAME = {"W3": _mlp, "W6a": _pointwise}


def prepare(work: Workload, threads: int, variant: str) -> Prepared:
    """The workload as an ONNX model (opset 20), inputs and outputs bound once."""
    nodes, inputs, shape = _BY_NAME[work.name](work)
    out = np.empty(shape, np.float32)
    weights = [numpy_helper.from_array(v, k) for k, v in work.data.items() if k not in inputs]
    model = helper.make_model(
        helper.make_graph(nodes, work.name, [_value(k, work.data[k]) for k in inputs], [_value("y", out)], weights),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name in inputs:
        array = work.data[name]
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, out.shape, out.ctypes.data)

    def call() -> None:
        session.run_with_iobinding(binding)

    def result() -> dict[str, np.ndarray]:
        call()
        return {"y": out}

    return Prepared(call, result)


def version() -> str:
    """The version that was measured."""
    return onnxruntime.__version__
