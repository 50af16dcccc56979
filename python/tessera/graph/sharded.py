"""A compiled graph on a mesh: one program per device, called like any other compiled graph."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tessera._core import Array, Program, hash64
from tessera.artifact import layout, reader, writer
from tessera.dist.mesh import Mesh
from tessera.dist.partition import Partitioned
from tessera.dist.placement import Placement, shard_ranges, slices, with_sizes
from tessera.dist.report import CollectivePlan
from tessera.dist.world import world
from tessera.errors import ArgumentError, DeviceError, DTypeError, NameMissingError, ShapeError, UnsupportedError
from tessera.graph.compiled import Compiled
from tessera.graph.devices import Replicas, devices_of, wait_quietly
from tessera.graph.pipeline import GPU_TARGETS, Built, TensorInfo
from tessera.graph.sharded_array import ShardedArray
from tessera.graph.signature import Signature
from tessera.interop.array import as_array, to_numpy
from tessera.interop.parameters import shared_array
from tessera.ir.dims import Dim, Expr, Symbol, add, evaluate, mul, sym, symbols
from tessera.op.parameter import Parameter, moves


class ShardedCompiled(Compiled):
    """A program on a mesh: inputs and outputs are whole arrays, each device works on its part.

    ``mesh`` is where it runs, ``collectives`` what its devices exchange in one run, ``traffic()`` what they exchanged
    in the last one. ``call_sharded`` leaves outputs in shards.
    """

    def __init__(
        self,
        built: Built,
        signature: Signature,
        parameters: Mapping[str, Parameter],
        constants: Mapping[str, np.ndarray],
        part: Partitioned,
        mesh: Mesh,
        collectives: CollectivePlan,
    ) -> None:
        super().__init__(built, signature, parameters, constants)
        self.mesh = mesh
        self.collectives = collectives
        self._part = part
        self._programs: dict[int, Program] = {}
        self._compared = False
        self._gpu = next((t for t in built.targets if t in GPU_TARGETS), None)
        self._copies: list[tuple[Parameter, dict[int, Array]]] = []

    @property
    def partitioned(self) -> Partitioned:
        """One device's program, before it was scheduled."""
        return self._part

    # --- calling ---

    def call(self, arrays: Sequence[Any]) -> Any:
        """Run on the inputs in order; the result as for a call."""
        outputs = self._outputs(arrays)
        self._settle(outputs)
        return self._signature.result([as_array(a.numpy()) for a in outputs])

    def call_sharded(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a call does; outputs stay in shards: ``ShardedArray``.

        GPUs may still be at work when it returns; what failed there is raised when an output is read, or by a later
        call.
        """
        signature = self._signature
        arrays = args if not kwargs and signature.positional(args) else signature.bind(args, kwargs)
        return signature.result(list(self._outputs(arrays)))

    def run(
        self, inputs: Sequence[Any] | Mapping[str, Any], outputs: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> list[Array]:
        """Run on inputs by position or name; gives all outputs, whole, in order.

        Writing into the caller's ``outputs`` is not supported on a mesh: UnsupportedError.
        """
        if outputs is not None:
            raise UnsupportedError("run: a program on a mesh does not write into the caller's outputs; leave them out")
        names = [info.name for info in self.inputs]
        if isinstance(inputs, Mapping):
            for name in inputs:
                if name not in names:
                    raise NameMissingError(f"there is no input {name!r}; the inputs are {', '.join(names) or 'none'}")
            missing = [n for n in names if n not in inputs]
            if missing:
                raise NameMissingError(f"input {missing[0]!r} is missing; the inputs are {', '.join(names)}")
            inputs = [inputs[n] for n in names]
        found = self._outputs(inputs)
        self._settle(found)
        return [as_array(a.numpy()) for a in found]

    def _settle(self, outputs: Sequence[ShardedArray]) -> None:
        """Wait for the run that makes the outputs; raises what failed in it, with the device that it failed on."""
        if self._gpu is not None:
            devices = self._devices
            devices.settle(lambda rank: outputs[0].shards[rank].wait() if outputs else devices.runtimes[rank].wait())

    def _outputs(self, arrays: Sequence[Any]) -> list[ShardedArray]:
        programs = self.programs()
        given = [x if isinstance(x, ShardedArray) else self._array(i, x) for i, x in enumerate(arrays)]
        sizes = self._bind(given)
        parts = [self._parts(info.name, x) for info, x in zip(self.inputs, given, strict=True)]
        devices = self._devices
        if self.mesh.spans_processes and not self._compared:
            self._compare_parameters()
            self._compared = True

        # Before any device runs: the first one writes its new state into the parameter itself.
        for parameter, copies in self._copies:
            for rank in self.mesh.local_ranks[1:]:
                to_numpy(copies[rank])[...] = parameter.storage()

        def one(rank: int) -> list[Array]:
            program, communicator = programs[rank], devices.communicators[rank]
            for name, size in sizes.items():
                program.set_size(name, size)
            communicator.reset_traffic()
            return program.run(devices.runtimes[rank], [p[rank] for p in parts], None)

        found = devices.run(one)
        self._last = [c.traffic() for c in devices.communicators.values()]
        out: list[ShardedArray] = []
        for i, info in enumerate(self.outputs):
            t = self._part.global_types["output", info.name]
            shape = tuple(evaluate(d, sizes) for d in t.shape)
            out.append(ShardedArray(self.mesh, with_sizes(self._part.outputs[info.name], sizes), shape,
                                    [found[r][i] if r in found else None for r in range(self.mesh.size)],
                                    devices.settle if self._gpu is not None else None))
        return out

    def _parts(self, name: str, x: Any) -> dict[int, Array]:
        """The part of an input for each device of this process."""
        t = self._part.global_types["input", name]
        shape = tuple(x.shape)
        sharding = with_sizes(self._part.inputs[name], dict(zip(map(str, t.shape), shape)))
        if isinstance(x, ShardedArray):
            ranks = self.mesh.local_ranks
            if x.mesh == self.mesh and all(
                shard_ranges(x.sharding, shape, rank) == shard_ranges(sharding, shape, rank)
                for rank in range(self.mesh.size)  # all processes find the same
            ):
                return {rank: as_array(x.shards[rank]) for rank in ranks}
            x = x.numpy()
        if sharding.is_replicated:
            return dict.fromkeys(self.mesh.local_ranks, as_array(x))
        array = to_numpy(x) if isinstance(x, Array) else np.asarray(x)
        return {
            rank: as_array(np.ascontiguousarray(array[slices(shard_ranges(sharding, shape, rank))]))
            for rank in self.mesh.local_ranks
        }

    def _bind(self, arrays: Sequence[Any]) -> dict[str, int]:
        """The sizes of the symbolic dimensions; every input checked against its declaration."""
        if len(arrays) != len(self.inputs):
            raise ArgumentError(f"{len(arrays)} inputs are given, {len(self.inputs)} are expected")
        sizes: dict[str, int] = {}
        for info, x in zip(self.inputs, arrays, strict=True):
            t = self._part.global_types["input", info.name]
            dtype = as_array(x.local).dtype if isinstance(x, ShardedArray) else x.dtype
            if dtype != t.dtype.name:
                raise DTypeError(f"input {info.name!r}: expected {info}, got {dtype}")
            if len(x.shape) != t.ndim:
                raise ShapeError(f"input {info.name!r}: expected {info}, got shape {tuple(x.shape)}")
            for d, size in zip(t.shape, x.shape, strict=True):
                solved = _solved(d, size)
                if solved is not None and solved[0].name not in sizes:
                    solved[0].check(solved[1])
                    sizes[solved[0].name] = solved[1]
        for info, x in zip(self.inputs, arrays, strict=True):
            t = self._part.global_types["input", info.name]
            expected = tuple(evaluate(d, sizes) for d in t.shape)
            if expected != tuple(x.shape):
                raise ShapeError(f"input {info.name!r}: expected {info} = {expected}, got shape {tuple(x.shape)}")
        return sizes

    # --- programs ---

    def program(self) -> Program:
        """The program of this process's first device; ``programs`` gives all."""
        return next(iter(self.programs().values()))

    def programs(self) -> dict[int, Program]:
        """The loaded program of each device of this process, by rank; made at the first use, its state the shards."""
        with self._lock:
            if self._programs and self._gpu is not None and self._moves != moves():
                wait_quietly(self._devices.runtimes)  # runs under way read what is bound
                self._bind_on_gpus(self._programs)
            if not self._programs:
                devices = devices_of(self.mesh)
                self._devices = devices  # keeps the threads as long as the program
                data = writer.to_bytes(self._built.metadata, self._built.kernel_sections())
                made = {rank: Program.load_bytes(data, target=self._target_of(rank)) for rank in self.mesh.local_ranks}
                if self._gpu is not None:
                    self._bind_on_gpus(made)
                for rank, program in made.items():
                    if self._gpu is None:
                        self._bind_state(program, rank)
                    for name, _, _ in program.constants():
                        constant = self._constants[name]
                        program.set_constant(name, as_array(np.ascontiguousarray(constant).reshape(constant.shape)))
                    program.set_communicator(devices.communicators[rank])
                self._programs = made
            return self._programs

    def _target_of(self, rank: int) -> str | None:
        """The target of a device's program, with the number of its GPU; None: the best that runs here."""
        return None if self._gpu is None else f"{self._gpu}:{self.mesh.gpu_index(rank)}"

    def _bind_on_gpus(self, programs: Mapping[int, Program]) -> None:
        """State lives on the GPUs that change it: shards, or replicas of which the first is the parameter."""
        first = self.mesh.local_ranks[0]
        for name, _, _ in programs[first].state():
            parameter = self._parameters[name]
            if isinstance(parameter.placement, Placement):
                self._bind_shards(name, parameter, parameter.placement, programs)
            else:
                self._bind_replicas(name, parameter, programs)
        self._moves = moves()

    def _bind_shards(
        self, name: str, parameter: Parameter, placement: Placement, programs: Mapping[int, Program]
    ) -> None:
        for rank, program in programs.items():
            there = placement.on_device(rank)
            if there is not None and there.device == program.device:
                program.bind_state(name, there)
            else:
                program.bind_state(name, placement.array(parameter, rank, Array.from_numpy))
                placement.move_to(rank, program.state_array(name))

    def _bind_replicas(self, name: str, parameter: Parameter, programs: Mapping[int, Program]) -> None:
        first = self.mesh.local_ranks[0]
        devices = self._devices
        kept = devices.replicas.get(parameter)
        stays = parameter.device == programs[first].device
        if kept is None or not stays or kept.array is not parameter.array or kept.assigned != parameter.assigned:
            kept = None
        value = parameter.value if kept is None and len(programs) > 1 else None
        if stays:
            programs[first].bind_state(name, parameter.array)
        else:
            programs[first].bind_state(name, shared_array(parameter))
            parameter.move_to(programs[first].state_array(name))
        if kept is None:
            kept = devices.replicas[parameter] = Replicas(parameter.array, parameter.assigned)
        for rank, program in programs.items():
            if rank == first:
                continue
            if rank not in kept.arrays:
                assert value is not None
                program.bind_state(name, Array.from_numpy(value))
                kept.arrays[rank] = program.state_array(name)
            else:
                program.bind_state(name, kept.arrays[rank])

    def _bind_state(self, program: Program, rank: int) -> None:
        mutated = {leaf.node.attrs["name"] for leaf in self._part.graph.updates}
        copies = {p.name: arrays for p, arrays in self._copies}
        for name, _, _ in program.state():
            parameter = self._parameters[name]
            if isinstance(parameter.placement, Placement):
                program.bind_state(name, parameter.placement.array(parameter, rank, Array.from_numpy))
            elif name not in mutated:
                program.bind_state(name, shared_array(parameter))
            else:
                # Each device updates a copy of its own, refreshed before a run; that of the first is the parameter.
                if name not in copies:
                    copies[name] = {rank: shared_array(parameter)}
                    self._copies.append((parameter, copies[name]))
                else:
                    copies[name][rank] = Array.from_numpy(np.array(parameter.storage()))
                program.bind_state(name, copies[name][rank])

    def _compare_parameters(self) -> None:
        """Parameters that every process holds whole must begin alike: DeviceError names the first that does not."""
        hashes = {
            name: f"{hash64(np.ascontiguousarray(p.storage()).view(np.uint8).reshape(-1)):016x}"
            for name, p in sorted(self._parameters.items()) if p.placement is None
        }
        first, *others = [json.loads(d) for d in world().all_gather(json.dumps(hashes).encode(), self.mesh.devices)]
        for device, other in zip(self.mesh.devices[1:], others, strict=True):
            if other != first:
                name = next((n for n in hashes if first.get(n) != other.get(n)), "?")
                raise DeviceError(
                    f"parameter {name!r} has other values on rank {device} than on rank {self.mesh.devices[0]}; give "
                    "all processes the same initial values (tessera.manual_seed, or the same array)"
                )

    @property
    def inputs(self) -> list[TensorInfo]:
        """Name, dtype and whole shape of each input, in order."""
        return [self._info("input", i.name) for i in self._built.inputs]

    @property
    def outputs(self) -> list[TensorInfo]:
        """Name, dtype and whole shape of each output, in order."""
        return [self._info("output", i.name) for i in self._built.outputs]

    @property
    def state(self) -> list[TensorInfo]:
        """Name, dtype and whole shape of each parameter and other state."""
        return [self._info("param", i.name) for i in self._built.state]

    def _info(self, kind: str, name: str) -> TensorInfo:
        t = self._part.global_types[kind, name]
        return TensorInfo(name, t.dtype.name, tuple(d if isinstance(d, int) else str(d) for d in t.shape))

    def layouts(self) -> dict[str, str]:
        """How inputs, outputs and state lie on the mesh, by ``input <name>``, ``output <name>``, ``state <name>``."""
        found: dict[str, str] = {}
        lists = (("input", "input", self._part.inputs), ("output", "output", self._part.outputs),
                 ("state", "param", self._part.state))
        for label, kind, shardings in lists:
            for name, sharding in shardings.items():
                found[f"{label} {name}"] = sharding.text(self._part.global_types[kind, name].shape)
        return found

    def traffic(self) -> list[int]:
        """Bytes that each device of this process received from others in the last run, counted where they arrived."""
        return [received for received, _ in getattr(self, "_last", [(0, 0)] * len(self.mesh.local_ranks))]

    def peak_memory(self, sizes: Mapping[str, int] | None = None) -> int:
        """Bytes of temporary memory that one run needs on this process's first device."""
        given = {**dict(sizes or {}), **self._part.mesh.coordinates(self.mesh.local_ranks[0])}
        program = self.program()
        needs = program.requirements({s[0]: given[s[0]] for s in program.symbols() if s[0] in given})
        return int(needs["arena"]) + int(needs["scratch_per_thread"])

    # --- files ---

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write the artefact with the present values, whole, of parameters and state.

        ``graph.load`` reads it back; ``tessera inspect --collectives`` lists its exchanges. The plan in it is one
        device's. On a mesh of processes all of them call this, and the first writes.
        """
        entries = dict(self._built.metadata)
        for key, text in (metadata or {}).items():
            if not isinstance(text, str):
                raise ArgumentError(f"save: metadata {key!r} must be text, not {type(text).__name__}")
            entries[layout.USER + key] = text
        sections = [writer.section(name, p.value) for name, p in self._parameters.items()]
        sections += [writer.section(layout.CONSTANT + name, data) for name, data in self._constants.items()]
        self._write(path, entries, sections + self._built.kernel_sections())

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and state, whole, as a safetensors file, atomically; with processes as ``save``."""
        sections = [writer.section(name, p.value) for name, p in self._parameters.items()]
        self._write(path, {layout.FORMAT: "1", "tessera.content": "state"}, sections)

    def _write(self, path: str | os.PathLike[str], entries: dict[str, str], sections: list[Any]) -> None:
        """The file, by the process of the first device; the others return when it is there."""
        if not self.mesh.spans_processes or self.mesh.local_ranks[0] == 0:
            writer.save(path, entries, sections)
        if self.mesh.spans_processes:
            world().all_gather(b"", self.mesh.devices)

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Read what ``save_state`` wrote, on this mesh, another one or none; nothing changes unless the file fits."""
        file = reader.load(path)
        found: dict[str, np.ndarray] = {}
        for name, parameter in self._parameters.items():
            found[name] = file.tensor(name)
            if found[name].shape != parameter.shape:
                raise ShapeError(f"{path}: tensor {name!r} has shape {found[name].shape}, expected {parameter.shape}")
            if found[name].dtype != parameter.dtype.numpy:
                raise DTypeError(f"{path}: tensor {name!r} is {found[name].dtype}, expected {parameter.dtype}")
        for name, parameter in self._parameters.items():
            parameter.value = found[name]

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}; {self.mesh!r}, {len(self.collectives)} collectives)"


def _solved(d: Dim, size: int) -> tuple[Symbol, int] | None:
    """The symbol of a dimension that is a multiple of one and a number, and its size; None where that does not fit."""
    found = symbols(d)
    if not isinstance(d, Expr) or len(found) != 1:
        return None
    symbol, = found
    first, second = (evaluate(d, {symbol.name: n}) for n in (0, 1))
    step = second - first
    if step == 0 or d != add(mul(step, sym(symbol)), first) or (size - first) % step:
        return None
    return symbol, (size - first) // step
