"""Does the device still compute? Asked after a step has failed."""

import mlx.core as mx
import structlog

log = structlog.get_logger()

SIZE = 64


def device_works() -> bool:
    """Run a small computation, on fresh memory; engine thread only.

    MLX reports a failed command once, at the next evaluation, and then forgets it: the first
    evaluation here may still bring the old error, the second counts.
    """
    for _ in range(2):
        try:
            mx.clear_cache()
            mx.synchronize()
            ones = mx.ones((SIZE, SIZE))
            works = bool(mx.all(ones @ ones == SIZE).item())
        except (RuntimeError, ValueError, MemoryError) as error:
            log.warning("device probe failed", error=str(error))
            continue
        if works:
            return True
    return False
