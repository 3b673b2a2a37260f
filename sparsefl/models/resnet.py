"""Residual networks for images of CIFAR's size: ResNet-18 and ResNet-32.

Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition" (CVPR,
arXiv 1512.03385). ``resnet32`` is sec. 4.2's: three stages of five blocks, 16, 32 and 64 channels,
shortcuts without parameters (option A); 464,154 parameters on CIFAR-10, the paper's 0.46 M.
``resnet18`` is table 1's 18-layer network with the first convolution of sec. 4.2 (3x3, stride 1, no
pool), as the literature on CIFAR has it; 11,173,962 parameters. With group norm in place of batch
norm it is the network of Reddi et al. 2021 (arXiv 2003.00295) and FedPT (arXiv 2110.03450), which
go back to Hsieh et al. 2020 (arXiv 1910.00189).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sparsefl.models._normalisation import Norm, normalisation
from sparsefl.models._sizes import Shape, check_sizes, scaled

# The papers' own, where none is asked for.
PAPERS_NORM = "batch"


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, and zeros for the channels that are new: option A of He et al."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Build it; ``out_channels >= in_channels``."""
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, out_channels, H / stride, W / stride]``, sides rounded up."""
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        """Describe the shortcut."""
        return f"stride={self.stride}, new_channels={self.new_channels}"


class BasicBlock(nn.Module):
    """``relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))``: two 3x3 convolutions."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: str, project: bool
    ) -> None:
        """Build it; ``project`` as in :class:`ResNet`."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = normalisation(norm, out_channels, 2)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = normalisation(norm, out_channels, 2)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = (
                _projection(in_channels, out_channels, stride, norm)
                if project
                else PaddedShortcut(in_channels, out_channels, stride)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, out_channels, H / stride, W / stride]``, sides rounded up."""
        out = self.relu1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        result: Tensor = self.relu2(out + self.shortcut(x))
        return result


class ResNet(nn.Module):
    """A 3x3 convolution, stages of basic blocks, the global average and a linear layer."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: tuple[int, ...],
        blocks: int,
        norm: str,
        project: bool,
    ) -> None:
        """Build it.

        Args:
            in_channels: Channels of the images.
            num_classes: Size of the output.
            channels: Channels of each stage; all stages but the first start with stride 2.
            blocks: Blocks a stage.
            norm: ``"batch"`` or ``"group"``.
            project: Whether shortcuts that change the shape are 1x1 convolutions (option B) and
                not :class:`PaddedShortcut` (option A).
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.norm1 = normalisation(norm, channels[0], 2)
        self.relu1 = nn.ReLU()
        before = channels[0]
        self.stages = [f"stage{i}" for i in range(1, len(channels) + 1)]
        for name, after in zip(self.stages, channels, strict=True):
            stage = nn.Sequential()
            for index in range(blocks):
                stride = 2 if index == 0 and name != "stage1" else 1
                stage.append(BasicBlock(before, after, stride, norm, project))
                before = after
            self.add_module(name, stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, num_classes]`` of ``[N, in_channels, H, W]``."""
        x = self.relu1(self.norm1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        result: Tensor = self.fc(self.flatten(self.pool(x)))
        return result


def resnet18(
    in_shape: Shape = (3, 32, 32), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return ResNet-18 for small images, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image, of any size.
        num_classes: Size of the output.
        norm: ``"batch"`` or ``"group"``; None is the paper's, batch.
        width: Multiplies the channels.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is not positive, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes)
    channels = tuple(scaled(units, width) for units in (64, 128, 256, 512))
    return ResNet(in_shape[0], num_classes, channels, 2, norm or PAPERS_NORM, project=True)


def resnet32(
    in_shape: Shape = (3, 32, 32), num_classes: int = 10, norm: Norm = None, width: float = 1.0
) -> nn.Module:
    """Return the ResNet-32 of CIFAR, ``[N, *in_shape] -> [N, num_classes]``.

    Args:
        in_shape: Channels, height and width of an image, of any size.
        num_classes: Size of the output.
        norm: ``"batch"`` or ``"group"``; None is the paper's, batch.
        width: Multiplies the channels.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if a size or ``width`` is not positive, or ``norm`` is unknown.
    """
    check_sizes(in_shape, num_classes)
    channels = tuple(scaled(units, width) for units in (16, 32, 64))
    return ResNet(in_shape[0], num_classes, channels, 5, norm or PAPERS_NORM, project=False)


def _projection(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Module:
    shortcut = nn.Sequential()
    shortcut.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
    shortcut.add_module("norm", normalisation(norm, out_channels, 2))
    return shortcut
