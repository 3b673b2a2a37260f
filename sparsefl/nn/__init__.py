"""Drop-in layers that store, compute and train only what a mask keeps, or what a seed leaves.

:func:`sparsify` puts them into a model, :func:`densify` takes them out again.
"""

from sparsefl.nn.batch_last import (
    BatchLastAdaptiveAvgPool2d,
    BatchLastAvgPool2d,
    BatchLastBatchNorm2d,
    BatchLastGroupNorm,
    BatchLastMaxPool2d,
)
from sparsefl.nn.checkpoint import load_supports
from sparsefl.nn.convert import SparsifyReport, densify, report, sparsify
from sparsefl.nn.export import export_sign, load_sign
from sparsefl.nn.frozen import FrozenConv2d, FrozenLinear
from sparsefl.nn.gated import GatedConvBN2d, PlainGatedConvBN2d
from sparsefl.nn.gating import GateReport, gate, gate_report
from sparsefl.nn.packed_sign import PackedSignConv2d, PackedSignLinear
from sparsefl.nn.relu import BitReLU, use_bit_relu
from sparsefl.nn.sign import SignConv2d, SignLinear
from sparsefl.nn.sparse import SparseConv2d, SparseLinear

__all__ = [
    "BatchLastAdaptiveAvgPool2d",
    "BatchLastAvgPool2d",
    "BatchLastBatchNorm2d",
    "BatchLastGroupNorm",
    "BatchLastMaxPool2d",
    "BitReLU",
    "FrozenConv2d",
    "FrozenLinear",
    "GateReport",
    "GatedConvBN2d",
    "PackedSignConv2d",
    "PackedSignLinear",
    "PlainGatedConvBN2d",
    "SignConv2d",
    "SignLinear",
    "SparseConv2d",
    "SparseLinear",
    "SparsifyReport",
    "densify",
    "export_sign",
    "gate",
    "gate_report",
    "load_sign",
    "load_supports",
    "report",
    "sparsify",
    "use_bit_relu",
]
