"""Operators: argument checks, schemas, fakes and autograd over the compiled kernels."""

from sparsefl.ops import _cuda_dense as _cuda_dense
from sparsefl.ops import _cuda_gated as _cuda_gated
from sparsefl.ops import _cuda_packed_sign as _cuda_packed_sign
from sparsefl.ops._arena import Arena
from sparsefl.ops._dispatch import Layout, gated_layout
from sparsefl.ops._gated_types import GatedGeometry, GatedOptions, GatedTensors, Statistics
from sparsefl.ops._library import isa
from sparsefl.ops._plan import Conv2dPlan, LinearPlan
from sparsefl.ops._sign_codes import SignCodes
from sparsefl.ops._view import View
from sparsefl.ops.batch_last import batch_last, row_major
from sparsefl.ops.batch_norm import batch_norm
from sparsefl.ops.bitmap import BitmapPlan, bitmap_add_, bitmap_gather, bitmap_scatter
from sparsefl.ops.gated_conv2d import gated_conv2d, update_running
from sparsefl.ops.group_norm import group_norm
from sparsefl.ops.growth import Call, Growth, conv2d_growth, linear_growth
from sparsefl.ops.majority_vote import majority_vote
from sparsefl.ops.max_pool2d import max_pool2d
from sparsefl.ops.memory_pool import MemoryCounts, memory_counts, release_memory
from sparsefl.ops.packed_sign import (
    PackedSigns,
    pack_signs,
    packed_nbytes,
    packed_sign_conv2d,
    packed_sign_linear,
)
from sparsefl.ops.relu import relu
from sparsefl.ops.sign_bits import sign_pack, sign_unpack
from sparsefl.ops.sign_conv2d import sign_conv2d
from sparsefl.ops.sign_linear import sign_linear
from sparsefl.ops.sparse_conv2d import sparse_conv2d
from sparsefl.ops.sparse_linear import sparse_linear
from sparsefl.ops.top_k import TopK, top_k

__all__ = [
    "Arena",
    "BitmapPlan",
    "Call",
    "Conv2dPlan",
    "GatedGeometry",
    "GatedOptions",
    "GatedTensors",
    "Growth",
    "Layout",
    "LinearPlan",
    "MemoryCounts",
    "PackedSigns",
    "SignCodes",
    "Statistics",
    "TopK",
    "View",
    "batch_last",
    "batch_norm",
    "bitmap_add_",
    "bitmap_gather",
    "bitmap_scatter",
    "conv2d_growth",
    "gated_conv2d",
    "gated_layout",
    "group_norm",
    "isa",
    "linear_growth",
    "majority_vote",
    "max_pool2d",
    "memory_counts",
    "pack_signs",
    "packed_nbytes",
    "packed_sign_conv2d",
    "packed_sign_linear",
    "release_memory",
    "relu",
    "row_major",
    "sign_conv2d",
    "sign_linear",
    "sign_pack",
    "sign_unpack",
    "sparse_conv2d",
    "sparse_linear",
    "top_k",
    "update_running",
]
