"""Speaks Label Studio: takes its tasks, brings it predictions; holds no model and never imports torch."""
