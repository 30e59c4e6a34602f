"""Take a job, call rsrefseg, give an answer; this room owns the GPU."""

__all__: list[str] = []
