"""One work on one mesh of GPUs by PyTorch, each GPU a process: DTensor for the product, FSDP2 and TP for the MLP.

``python -m benchmarks.dist.gpu_torch WORK torch DP TP`` under RANK, WORLD_SIZE, LOCAL_RANK; rank 0 prints JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as td
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.gpu.peers_torch import BATCH, WIDTH, drawn
from benchmarks.gpu.peers_torch import mlp as model_of

SIDE, ROUNDS = 16384, 15


def matmul(mesh: DeviceMesh) -> Callable[[], Any]:
    """W·Wᵀ, the result sharded like W."""
    places = [Shard(0), Shard(1)]
    w = distribute_tensor(drawn(SIDE, SIDE), mesh, places)
    return lambda: (w @ w.t()).redistribute(mesh, places)


def mlp(mesh: DeviceMesh) -> Callable[[], Any]:
    """The training step."""
    model = model_of()
    if mesh["tp"].size() > 1:
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if mesh["dp"].size() > 1:
        for part in model:
            if isinstance(part, nn.Linear):
                fully_shard(part, mesh=mesh["dp"])
        fully_shard(model, mesh=mesh["dp"])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    x, labels = drawn(BATCH, WIDTH), torch.randint(WIDTH, (BATCH,), device="cuda")

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x).float(), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def main() -> None:
    """Measure and print. All processes do the same number of calls."""
    work, dp, tp = sys.argv[1], *map(int, sys.argv[3:5])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    td.init_process_group("nccl", device_id=torch.device("cuda", int(os.environ["LOCAL_RANK"])))
    call = {"matmul": matmul, "mlp": mlp}[work](init_device_mesh("cuda", (dp, tp), mesh_dim_names=("dp", "tp")))
    for _ in range(30):
        call()
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        td.barrier()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 10)
    if td.get_rank() == 0:
        found = {"min": min(times), "median": statistics.median(times), "version": f"PyTorch {torch.__version__}"}
        print(json.dumps(found), flush=True)
    td.destroy_process_group()


if __name__ == "__main__":
    main()
