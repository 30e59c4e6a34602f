"""Speak Label Studio: translate its tasks into jobs and answers into predictions; hold no model."""

__all__: list[str] = []
