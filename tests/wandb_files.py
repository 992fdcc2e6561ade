"""Reads what wandb writes offline: ``run-<id>.wandb``, the records of a run in the format of LevelDB's log."""

import json
import struct
import time
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path):
    """The records of a file, oldest first; each says of which kind it is by ``WhichOneof("record_type")``."""
    content = Path(path).read_bytes()
    assert content[:4] == b":W&B", "the head of the file"
    place, whole = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind == 0:
            break
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # complete, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def put(items, place):
    """Writes items into a mapping, in which a key of several words leads inwards."""
    for item in items:
        inner, (*words, last) = place, item.nested_key or [item.key]
        for word in words:
            inner = inner.setdefault(word, {})
        inner[last] = json.loads(item.value_json)
    return place


class Run:
    """One offline run as it would arrive at a server."""

    def __init__(self, path):
        self.path = path
        self.config, self.summary, self.history, self.artifacts, self.files = {}, {}, [], [], []
        self.finished = False
        for record in records(path):
            kind = record.WhichOneof("record_type")
            part = getattr(record, kind) if kind else None
            if kind == "run":
                self.about = part
                put(part.config.update, self.config)
            elif kind == "config":
                put(part.update, self.config)
            elif kind == "summary":
                put(part.update, self.summary)
            elif kind == "history":
                self.history.append(put(part.item, {}))
            elif kind == "artifact":
                self.artifacts.append(part)
            elif kind == "files":
                self.files += [file.path for file in part.files]
            elif kind == "exit":
                self.finished = True

    def column(self, name):
        """The values of a metric in the order of its history."""
        return [line[name] for line in self.history if name in line]

    def table(self, name):
        """The rows of a table as mappings."""
        (entry,) = self.column(name)
        content = json.loads((self.path.parent / "files" / entry["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def runs(folder, patience=60.0):
    """The offline runs below a folder, by name or else id; wandb's own process may write the end of one a moment later.

    What it has not written is missing without a trace, so that a run without an end is refused.
    """
    deadline = time.monotonic() + patience
    found = []
    for path in sorted(Path(folder).glob("**/offline-run-*/run-*.wandb")):
        while not (run := Run(path)).finished and time.monotonic() < deadline:
            time.sleep(0.05)
        assert run.finished, f"{path} has no end"
        found.append(run)
    assert len({run.about.run_id for run in found}) == len(found), "a run is there twice"
    return {run.about.display_name or run.about.run_id: run for run in found}
