"""Take a job, run the model, give an answer; own the GPU. `contract` holds the words shared with `ml_backend`."""

__all__: list[str] = []
