"""What is wanted of each figure: at least or at most so much, or only which way is better."""

from __future__ import annotations

_PEOPLE_BESIDE_BULK = {
    "p95_beside_over_alone": "<= 2",
    "p95_alone_s": "lower",
    "p95_beside_s": "lower",
    "empty_answers": "<= 0",
    "lost": "<= 0",
    "doubled": "<= 0",
    "failures": "<= 0",
    "errors": "<= 0",
}

GOALS: dict[str, dict[str, str]] = {
    "dispatch": {"dispatch_ms_median": "<= 15"},
    "expressions": {
        "speedup_10_expressions": ">= 8",
        "speedup_10_over_published_attention": "higher",
        "speedup_cached": ">= 30",
        "speedup_together": ">= 1.8",
        "speedup_bf16": "higher",
        "peak_gib": "<= 6",
        "peak_gib_32_expressions": "<= 7",
    },
    "faults": {"doubled": "<= 0", "missing": "<= 0", "failures": "<= 0"},
    "fuzz": {"errors_of_ours": "<= 0"},
    "load": {
        **_PEOPLE_BESIDE_BULK,
        "most_growth_mib_h": "lower",
    },
    "retrain": {
        **{f"seconds_{count}": "<= 600" for count in (50, 60)},
        **{f"held_out_gain_{count}": ">= 10" for count in (50, 60)},
        **{f"anchor_gain_{count}": ">= -2" for count in (50, 60)},
        **{f"promoted_{count}": ">= 1" for count in (50, 60)},
    },
    "rle": {"encode_speedup": ">= 5", "decode_speedup": ">= 50", "identical": ">= 1"},
    "scaling": {
        "busy_share_1": ">= 0.95",
        "speedup_8": ">= 7.6",
        "dispatch_ms_median": "<= 15",
        "enqueue_per_s": ">= 5000",
        "bytes_per_task": "<= 1500",
        "redis_ms_per_task": "lower",
        "delivered_per_s_1": "higher",
        "amortised_rq_ms": "<= 1",
        "tasks_per_s": "higher",
        "speedup_over_official": ">= 1",
    },
    "selection": {"gain_over_random": "higher", "selected_anchor_gain": ">= -2", "random_anchor_gain": ">= -2"},
    "soak": {
        **_PEOPLE_BESIDE_BULK,
        "trained": ">= 1",
        "most_growth_mib_h": "<= 5",
    },
    "tiny": {"new_image_s": "<= 0.5", "further_expression_ms": "<= 60", "megabytes": "<= 25"},
    "webhook": {"ack_ms_p50": "lower", "ack_ms_p99": "<= 50", "refused": "<= 0", "lost": "<= 0"},
}
"""By benchmark and figure: ">= 2" or "<= 0.5", or "higher" or "lower" where that is better and nothing is promised."""
