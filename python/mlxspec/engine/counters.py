"""The scheduler's counters, as the API sees them."""

from msgspec import Struct


class Counters(Struct, frozen=True, kw_only=True):
    """The scheduler's counters: cumulative, but for the gauges named so in its stub."""

    requests_submitted: int
    requests_rejected: int
    requests_finished: int
    requests_aborted: int
    requests_failed: int
    requests_expired: int
    late_aborts: int
    requests_waiting: int
    requests_running: int
    kv_blocks_total: int
    kv_blocks_used: int
    model_bytes: int
    models_resident: int
    model_loads: int
    model_load_errors: int
    model_evictions: int
    drafter_loads: int
    drafter_evictions: int
    kv_blocks_cached: int
    cached_tokens: int
    prefix_evictions: int
    preemptions: int
    memory_permille: int
    memory_shortage: int
    memory_trims: int
    memory_refusals: int
    steps: int
    step_errors: int
    integrity_errors: int
    wake_errors: int
    suffix_file_errors: int
    kv_file_bytes: int
    kv_file_tokens: int
    kv_files_dropped: int
    kv_file_errors: int
    prompt_tokens: int
    generated_tokens: int
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    drafted_per_pos: list[int]
    accepted_per_pos: list[int]
    drafters: list[tuple[str, int, int]]
