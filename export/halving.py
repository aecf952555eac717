"""Models in 16-bit floats, for GPUs: halved before export, because TensorRT takes a graph's precision as it is.

What overflows or loses small probabilities stays in fp32, with casts around it: normalisations, the softmax of
attention, the comparison with the codebook, pixels, and all that a sampler does with logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sundae_rt.errors import InputError
from sundae_rt.training.pixels import GreyPixels
from sundae_rt.training.vqgan.model import VQGAN

_NORMS = (nn.LayerNorm, nn.GroupNorm)


class HalvedPrior(nn.Module):
    """A prior whose weights and features are of a 16-bit ``dtype``; its logits come out as fp32.

    Raises:
        InputError: a weight that the dtype cannot hold.
    """

    def __init__(self, prior: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = prior.config
        self.prior = _halved(prior, dtype)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """As the prior: codes ``[B, T]``, and ``label [B]`` where it has labels, to f32 ``[B, T, V]``."""
        with _SoftmaxInFloat():
            return (self.prior(codes) if label is None else self.prior(codes, label)).float()


class HalvedVQGAN(nn.Module):
    """A VQ-GAN whose networks are of a 16-bit ``dtype``, around a quantiser in fp32; images are fp32 on both sides.

    Raises:
        InputError: a weight that the dtype cannot hold.
    """

    def __init__(self, vqgan: VQGAN, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.dtype = vqgan.config, dtype
        self.quantize = vqgan.quantize
        parts = (vqgan.encoder, vqgan.quant_conv, vqgan.post_quant_conv, vqgan.decoder)
        self.encoder, self.quant_conv, self.post_quant_conv, self.decoder = (_halved(part, dtype) for part in parts)

    def encode(self, images: Tensor) -> Tensor:
        """As :meth:`VQGAN.encode`."""
        with _SoftmaxInFloat():
            latents = self.quant_conv(self.encoder(images.to(self.dtype)))
        return self.quantize.codes(latents.float())

    def decode(self, codes: Tensor) -> Tensor:
        """As :meth:`VQGAN.decode`."""
        with _SoftmaxInFloat():
            latents = self.post_quant_conv(self.quantize.embed(codes).to(self.dtype))
            return self.decoder(latents).float()


def halved(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a prior or a VQ-GAN in ``dtype`` (fp16 or bf16); what has no weights comes back as it is.

    Raises:
        InputError: a weight that the dtype cannot hold.
    """
    if isinstance(model, GreyPixels):
        return model
    return (HalvedVQGAN if isinstance(model, VQGAN) else HalvedPrior)(model, dtype).eval()


class _InFloat(nn.Module):
    """A normalisation in fp32 between 16-bit neighbours."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


class _SoftmaxInFloat(TorchFunctionMode):
    """Attention without a mask, written out, with its softmax in fp32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        return torch.softmax(scores.float(), -1).to(value.dtype) @ value


def _halved(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    limit = torch.finfo(dtype).max
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool((tensor.abs() <= limit).all()):
            raise InputError(f"{name} does not fit into {dtype}, which ends at {limit:g}: export another variant")
    model = copy.deepcopy(model).to(dtype)
    _keep_norms(model)
    return model


def _keep_norms(model: nn.Module) -> None:
    for name, child in model.named_children():
        if isinstance(child, _NORMS):
            setattr(model, name, _InFloat(child.float()))
        else:
            _keep_norms(child)
