"""A small decoder over characters: the transformer of FedPT's experiments, for small alphabets.

Sidahmed et al. 2021 (arXiv 2110.03450) train one of three blocks over 10,000 words; what they
freeze are its feed-forward layers, ``blocks.*.ffn*``, two thirds of a block.

Departures: characters instead of words, and 430,049 parameters at full width and 65 characters.
Norms come before attention and feed-forward layers (Xiong et al. 2020, arXiv 2002.04745), which
needs no warm-up; positions are learnt; there is no dropout.
"""

from torch import Tensor, arange, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from sparsefl.models._normalisation import Norm
from sparsefl.models._sizes import Shape, check_sizes, scaled

# Characters' width, as the paper's embedding; width of the feed-forward layers; heads.
DIM, HIDDEN, HEADS = 96, 512, 4


class Block(nn.Module):
    """Causal self-attention and two feed-forward layers, each on the norm of its input."""

    def __init__(self, dim: int, hidden: int) -> None:
        """Builds a block of ``dim`` features."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn1 = nn.Linear(dim, hidden)
        self.ffn2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` after the block, ``[N, T, dim]``."""
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.ffn2(relu(self.ffn1(self.norm2(x))))


class Transformer(nn.Module):
    """Tokens and positions, blocks, a norm, and a head: the next token's scores everywhere."""

    def __init__(self, positions: int, tokens: int, dim: int, hidden: int, layers: int) -> None:
        """Builds a decoder of up to ``positions`` tokens."""
        super().__init__()
        self.tokens = nn.Embedding(tokens, dim)
        self.positions = nn.Embedding(positions, dim)
        self.blocks = nn.Sequential(*(Block(dim, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, tokens, T]`` of what follows each of ``x``, int64 ``[N, T]``."""
        embedded = self.tokens(x) + self.positions(arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(embedded))).transpose(1, 2)


def transformer(
    in_shape: Shape = (1, 1, 80),
    num_classes: int = 65,
    norm: Norm = None,
    width: float = 1.0,
    layers: int = 3,
) -> nn.Module:
    """Return the decoder, int64 ``[N, T] -> [N, num_classes, T]``.

    Args:
        in_shape: ``(1, 1, T)``: the most characters of a text.
        num_classes: Size of the alphabet.
        norm: None: it has layer norm, and no other.
        width: Multiplies the features, to a multiple of the heads, and the hidden units.
        layers: Number of blocks.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is not positive, or there is a ``norm``.
    """
    check_sizes(in_shape, num_classes)
    if in_shape[:2] != (1, 1):
        raise ValueError(f"transformer reads texts, in_shape (1, 1, characters), got {in_shape}")
    if norm is not None:
        raise ValueError(f"norm must be None: transformer has layer norm, got {norm!r}")
    if type(layers) is not int or layers < 1:
        raise ValueError(f"layers must be a positive int, got {layers!r}")
    dim = HEADS * scaled(DIM // HEADS, width)
    return Transformer(in_shape[2], num_classes, dim, scaled(HIDDEN, width), layers)
