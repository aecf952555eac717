"""How a grid's tokens are grouped on the way into and out of the valley.

Linear resampling joins each s x s patch into one token. Attention resampling lets that token look at the tokens that it
stands for: those of its own patch, or, as in the published checkpoints, ``s * s`` tokens that follow each other in
raster order, even across rows.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


class Resampling:
    """Rearrangements between a grid's tokens, its patches and its groups.

    ``grid``: ``(h, w)`` of the valley; ``side``: s; ``raster``: groups are runs of raster order instead of patches;
    ``channels_first``: a joined token's features are ordered (channel, row, column) instead of (row, column, channel).
    """

    def __init__(self, grid: tuple[int, int], side: int, raster: bool, channels_first: bool) -> None:
        self.grid, self.side, self.raster, self.channels_first = grid, side, raster, channels_first

    def split(self, x: Tensor) -> Tensor:
        """Tokens ``[B, h*s*w*s, D]`` to patches ``[B, h*w, s*s, D]``."""
        (height, width), side = self.grid, self.side
        return rearrange(x, "b (h r w c) d -> b (h w) (r c) d", h=height, w=width, r=side, c=side)

    def unsplit(self, patches: Tensor) -> Tensor:
        """Undoes :meth:`split`."""
        (height, width), side = self.grid, self.side
        return rearrange(patches, "b (h w) (r c) d -> b (h r w c) d", h=height, w=width, r=side, c=side)

    def join(self, patches: Tensor) -> Tensor:
        """Patches ``[B, N, s*s, D]`` to the features ``[B, N, s*s*D]`` of one token each."""
        return rearrange(patches, "b n s d -> b n (d s)" if self.channels_first else "b n s d -> b n (s d)")

    def unjoin(self, features: Tensor) -> Tensor:
        """Undoes :meth:`join`."""
        pattern = "b n (d s) -> b n s d" if self.channels_first else "b n (s d) -> b n s d"
        return rearrange(features, pattern, s=self.side**2)

    def group(self, patches: Tensor) -> Tensor:
        """Patches to groups, ``[B, N, s*s, D]`` both: what token n's attention resampling sees."""
        if not self.raster:
            return patches
        return rearrange(self.unsplit(patches), "b (n s) d -> b n s d", s=self.side**2)

    def ungroup(self, groups: Tensor) -> Tensor:
        """Groups back to tokens ``[B, h*s*w*s, D]``."""
        return rearrange(groups, "b n s d -> b (n s) d") if self.raster else self.unsplit(groups)
