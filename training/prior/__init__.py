"""The prior: a 2D-aware hourglass transformer trained as a step-unrolled denoising autoencoder (sections 3.2-3.4)."""
