"""What each room shows to the others is what its `__init__` says."""

import importlib

import pytest


@pytest.mark.parametrize("room", ["rsrefseg", "rsrefseg.datasets", "rsrefseg.scenes", "workers", "ml_backend"])
def test_all_is_sorted_and_true(room):
    module = importlib.import_module(room)
    assert module.__doc__.strip()
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
