"""Ways to draw."""

from typing import Any

PENALTIES = {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.1}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.7},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "top_k": {"temperature": 1.2, "top_k": 5},
    "truncations": {"temperature": 0.9, "min_p": 0.1, "top_k": 20, "top_p": 0.95},
    "xtc": {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.05, "xtc_spared": [3]},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "presence_penalty": {"temperature": 0.5, "presence_penalty": 0.8},
    "frequency_penalty": {"frequency_penalty": -0.2},
    "bias": {"temperature": 0.8, "bias": [(3, 2.0), (7, -100.0)]},
    "allowed": {"temperature": 0.8, "allowed": [1, 5, 7, 9, 20, 33]},
    "banned": {"temperature": 0.5, "banned": [[3], [5, 6], [7, 7, 7]]},
    "min_tokens": {"min_tokens": 20, "stop_tokens": [*range(0, 48, 3)]},
    "everything": {
        **PENALTIES,
        "temperature": 0.8,
        "top_p": 0.9,
        "min_p": 0.02,
        "top_k": 20,
        "xtc_probability": 0.3,
        "xtc_threshold": 0.2,
        "bias": [(3, 1.0), (4, -1.0)],
        "allowed": [*range(30)],
        "banned": [[3], [5, 6]],
        "min_tokens": 10,
        "stop_tokens": [1, 2],
    },
}
"""Every way to draw; the last one at once."""
