"""A grid of methods, folds, shots and points: planned without torch, run by workers, resumed after a kill.

``grid`` turns a file into trainings and runs, ``jobs`` says what a worker does, ``runner`` does it under Lightning,
``local`` and ``ray_executor`` say where, and ``engine`` brings it to its end.
"""

from fewseg.benchmark.engine import execute
from fewseg.benchmark.estimate import describe
from fewseg.benchmark.grid import Plan, Run, Training, plan, read_yaml, self_contained
from fewseg.benchmark.jobs import Executor, Job, Runner
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
