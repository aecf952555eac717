"""Presets: one small toml file a system, with a section for its VQ-GAN and one for its prior."""
