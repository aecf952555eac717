"""The VQ-GAN: images to grids of codes and back (Esser et al. 2021; section 3.1 of the paper)."""
