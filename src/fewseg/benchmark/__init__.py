"""A grid of methods, folds, shots and points: planned without torch, run by workers, resumed after a kill.

``grid`` turns a file, as ``reading`` and ``cells`` understand it, into trainings and runs; ``estimate`` says how long
they may take, from the ``timings`` of earlier ones. ``jobs`` says what a worker does, ``runner`` does it under
Lightning, ``local`` and ``ray_executor`` say where, and ``engine`` brings it to its end.
"""

from fewseg.benchmark.engine import execute
from fewseg.benchmark.estimate import describe
from fewseg.benchmark.grid import Plan, Run, Training, plan, self_contained
from fewseg.benchmark.jobs import Executor, Job, Runner
from fewseg.benchmark.reading import read_yaml
from fewseg.benchmark.runner import LightningRunner, device_name, versions

__all__ = [
    "Executor",
    "Job",
    "LightningRunner",
    "Plan",
    "Run",
    "Runner",
    "Training",
    "describe",
    "device_name",
    "execute",
    "plan",
    "read_yaml",
    "self_contained",
    "versions",
]
