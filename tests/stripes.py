"""The smallest world in which few steps do not do: grids of stripes, and a preset of a prior that learns them."""

from pathlib import Path

STRIPES = """
extends = "toy"
[prior]
vocabulary = 16
latent_grid = [4, 4]
depth = [1, 1, 1]
dims = [32]
heads = [1]
[prior.training]
steps = 200
batch_size = 32
learning_rate = 4e-3
save_every = 200
[prior.schedule]
steps = 20
temperature = [0.5, 0.5]
proportion = "ancestral"
order = "confidence"
[prior.distillation]
steps = 100
batch_size = 32
save_every = 100
[prior.rectification]
steps = 300
batch_size = 64
learning_rate = 4e-3
warmup = 5
unroll_steps = 1
temperature = [0.5, 0.5]
save_every = 300
"""


def write_stripes(path: Path) -> None:
    """Writes all 16 grids: each row is the one above plus 1, each column the one before plus 3.

    What starts such a grid is free, and all else follows, so that places drawn independently of one another seldom fit.
    """
    import torch

    from sundae_rt.training import encoding

    first, row, column = torch.arange(16)[:, None, None], torch.arange(4)[:, None], torch.arange(4)
    grids = ((first + row + 3 * column) % 16).int()
    encoding.write(path, encoding.LatentDataset(grids, 16, None, None, None, "unknown"))
