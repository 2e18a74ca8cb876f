"""Both ways in which steps lie, in sizes for the tiny model."""

from mlxspec.engine.model_facts import DeviceShape

EXACT = DeviceShape(padded=False, slab_slots=4, step_tokens=64, prefill_chunk=16, view_step=32)
PADDED = DeviceShape(padded=True, slab_slots=4, step_tokens=256, prefill_chunk=64, view_step=256)
BUCKET_BYTES = 256 * 2 * 2 * (8 + 8) * 4
"""One smallest row of the tiny model: 256 positions, 2 layers, 2 heads, keys and values of 8."""
