"""No source of ours runs what a file or Redis says; one reader of a benchmark has an unpickler that admits no code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = [path for room in ("rsrefseg", "workers", "ml_backend") for path in sorted(Path(room).rglob("*.py"))]
BUILT_IN = {"eval", "exec", "compile", "__import__"}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
PICKLES = {"pickle", "_pickle", "cPickle"}
NUMPY = {"numpy.load", "numpy.lib.npyio.load", "numpy.lib.format.read_array"}
SERIALIZED = {"Queue", "Job", "OwnJob", "Worker", "SimpleWorker", "RQScheduler", "Result"}
"""What of RQ unpickles if it is not told otherwise; where it is made, or asked for what is there."""

ADMITTED = {Path("rsrefseg/datasets/rrsis_d.py"): {"pickle.Unpickler"}}


def names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, in full."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def name_of(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value, known)}.{node.attr}"
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def says(call: ast.Call, word: str, value: object) -> bool:
    return any(given.arg == word and getattr(given.value, "value", None) == value for given in call.keywords)


def dangers(source: str) -> list[str]:
    tree = ast.parse(source)
    known = names(tree)
    found = [name for name in known.values() if name.partition(".")[0] in MODULES]
    for node in ast.walk(tree):
        # However it is called later: as a base, under another name, handed to somebody else.
        if isinstance(node, ast.Attribute | ast.Name):
            name = name_of(node, known)
            module, _, attribute = name.rpartition(".")
            if module in PICKLES and attribute in {"load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"}:
                found.append(name)
            if attribute in {"read_pickle", "DefaultSerializer", "PickleSerializer"}:
                found.append(name)
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and getattr(node.value, "value", 1) is not False
        ):
            found.append("allow_pickle")
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func, known)
        if name in {"torch.load", "torch.serialization.load"} and not says(node, "weights_only", True):
            found.append(name)
        if name.removeprefix("builtins.") in BUILT_IN or name in {"yaml.load", "yaml.unsafe_load"}:
            found.append(name)
        if name in NUMPY and len(node.args) > 2:
            found.append(name)
        parts = name.split(".")
        made = parts[-1] in SERIALIZED
        asked = len(parts) > 1 and parts[-2] in SERIALIZED and parts[-1] in {"fetch", "fetch_many", "all", "create"}
        of_rq = name.startswith("rq.") or name.startswith("workers.own_job.OwnJob")
        if of_rq and (made or asked) and not says(node, "serializer", "json"):
            found.append(f"{name} without a serializer")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_source_runs_what_a_file_or_redis_says(path: Path) -> None:
    assert set(dangers(path.read_text("utf-8"))) <= ADMITTED.get(path, set())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(x)",
        "import pickle as p\np.load(x)",
        "from pickle import loads\nloads(x)",
        "from pickle import loads as read\nread(x)",
        "from pickle import Unpickler\nUnpickler(x).load()",
        "import pickle\nclass Mine(pickle.Unpickler): pass",
        "import _pickle\nread = _pickle.loads",
        "import pandas as pd\npd.read_pickle(x)",
        "from pandas import read_pickle\nread_pickle(x)",
        "eval(x)",
        "import builtins\nbuiltins.exec(x)",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "from torch import load\nload(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import numpy as np\nnp.load(x, allow_pickle=y)",
        "import numpy as np\nnp.load(x, None, True)",
        "import shelve",
        "from joblib import load",
        "from rq import Queue\nQueue('gpu', connection=x)",
        "import rq\nrq.Queue('gpu', connection=x)",
        "from rq.job import Job\nJob.fetch('a', connection=x)",
        "from rq import SimpleWorker\nSimpleWorker.all(connection=x)",
        "from rq import SimpleWorker\nSimpleWorker([x], serializer='pickle')",
        "from rq.serializers import DefaultSerializer\nx = DefaultSerializer",
        "from workers.own_job import OwnJob\nOwnJob('a', connection=x)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads(x)",
        "import torch\ntorch.load(x, weights_only=True)",
        "import numpy as np\nnp.load(x, allow_pickle=False)",
        "from rq import Queue\nQueue('gpu', connection=x, serializer='json')",
        "import re\nre.compile(x)",
    ],
)
def test_the_search_finds_nothing_where_nothing_is(source: str) -> None:
    assert dangers(source) == []


def test_every_worker_of_ours_is_told_to_read_json() -> None:
    # As it is made by its base's constructor, which the search does not see.
    source = Path("workers/leased.py").read_text("utf-8")
    assert 'serializer="json",' in source
    assert "job_class=OwnJob," in source
