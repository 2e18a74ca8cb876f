"""mlxspec: a server for MLX language models with lossless, batched speculative decoding."""

from importlib.metadata import version

__version__ = version("mlxspec")
