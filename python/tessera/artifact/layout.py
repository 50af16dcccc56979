"""Names, element types and limits of the ``.tsr`` format that writer and reader share."""

from __future__ import annotations

from tessera.ir.dtype import DTYPES, DType

ALIGNMENT = 64
"""Every tensor and the data section itself start at a multiple of this many bytes."""

MAX_HEADER = 100_000_000
"""The longest header that safetensors readers accept, in bytes."""

MAX_TENSORS = 1_000_000
"""The most tensors that a reader accepts."""

SAFETENSORS_NAMES: dict[str, str] = {
    "f64": "F64",
    "f32": "F32",
    "bf16": "BF16",
    "f16": "F16",
    "f8e4m3": "F8_E4M3",
    "f8e5m2": "F8_E5M2",
    "i64": "I64",
    "i32": "I32",
    "i16": "I16",
    "i8": "I8",
    "u8": "U8",
    "bool": "BOOL",
}
"""The safetensors name of each Tessera dtype."""

DTYPE_OF: dict[str, DType] = {name: DTYPES[short] for short, name in SAFETENSORS_NAMES.items()}
"""The Tessera dtype of each safetensors name."""

FORMAT = "tessera.format"
PRODUCER = "tessera.producer"
GRAPH = "tessera.graph"
PORTABLE = "tessera.portable"
HASHES = "tessera.hashes"
STATE = "tessera.state"
MESH = "tessera.mesh"
CUSTOM_OPS = "tessera.custom_ops"
PLAN = "tessera.plan."
KERNELS = "tessera.kernels."
SOURCE = "tessera.source."
CHOICES = "tessera.choices."
CONSTANT = "tessera.constant."
PAD = "tessera.pad."
USER = "user."


def is_weight(name: str) -> bool:
    """Whether a tensor of the file is a parameter or state, not one of Tessera's own sections."""
    return not name.startswith((KERNELS, CONSTANT, PAD))
