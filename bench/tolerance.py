"""The one rule of how far a result may be from its float64 reference."""

import torch

# Units in the last place of the largest element that are allowed even where dense torch is exact.
# Sums of 512 equal magnitudes, the positive ones first, as the sign kernels form them, reach 5.4.
ROUNDING_UNITS = 8


def max_error(out: torch.Tensor, ref64: torch.Tensor) -> float:
    """Compute ``max|out - ref64|``, NaN if ``out`` holds one and 0 for no elements."""
    return (out.double() - ref64).abs().max().item() if out.numel() else 0.0


def allowed_error(ref64: torch.Tensor, same_dtype_torch: torch.Tensor) -> float:
    """Compute ``2 * max|same_dtype_torch - ref64| + k * eps * max|ref64|``, ``k = ROUNDING_UNITS``.

    Args:
        ref64: The result computed in float64, any shape.
        same_dtype_torch: The same result by dense torch in the dtype under test, the same shape.

    Source: the tolerance rule of flash-attention's tests.
    """
    if ref64.numel() == 0:
        return 0.0
    eps = torch.finfo(same_dtype_torch.dtype).eps
    rounding = ROUNDING_UNITS * eps * ref64.abs().max().item()
    return 2 * max_error(same_dtype_torch, ref64) + rounding
