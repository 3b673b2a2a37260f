import numpy as np
import numpy.typing as npt

def uniform_bits(seed: int, stream: int, n: int) -> npt.NDArray[np.uint32]: ...
def normal(
    seed: int, stream: int, n: int, std: float, isa: str | None = None
) -> npt.NDArray[np.float32]: ...
