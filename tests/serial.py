"""An executor without workers, whose start would cost seconds: jobs run in this process, one after the other."""

from collections import deque

from fewseg.benchmark.jobs import Event, perform


class SerialExecutor:
    """Takes the arguments of ``LocalExecutor``."""

    def __init__(self, out, runner, workers=None):
        self.out, self.runner, self.jobs = out, runner, deque()

    def submit(self, job, alone=False):
        self.jobs.append(job)

    def wait(self):
        job, found = self.jobs.popleft(), []
        name = job.training.id
        perform(job, self.out, self.runner, lambda kind, value: found.append(Event(name, kind, value)))
        return [*found, Event(name, "done", None)]

    def close(self):
        pass
