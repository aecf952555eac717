"""Engines: a bundle's graphs, compiled by TensorRT, kept beside the bundle, and run on an NVIDIA GPU.

Two libraries have the same interface: `tensorrt`, and `tensorrt_rtx`, which builds engines on a machine without a GPU.
Nothing here imports PyTorch or onnx: the machine that serves builds its own engines.

    opening     which of the two is there, and what it says went wrong
    profiles    the batch sizes that an engine is made for
    guidance    the one edit that a graph needs before TensorRT takes it
    building    graph -> engine
    cache       engines as files, each under the key of all that it depends on
    obtain      an engine from the cache, or built and kept
    block       arrays side by side, for one copy
    engine      an engine on a GPU, run on arrays
"""
