"""What a data set of videos offers beside its single frames."""

from __future__ import annotations

import abc

from fewseg.datasets.files import ObjectDataset


class VideoDataset(ObjectDataset):
    """Videos whose objects are numbered alike in all their frames. An image id is ``<sequence>/<frame>``.

    Objects have no class: all are of the one class ``object``, which the one fold holds out. The lists of a split hold
    sequences; ``ids`` names the frames of them that stand for single images.
    """

    @abc.abstractmethod
    def sequences(self, split: str | None = None) -> tuple[str, ...]:
        """Names of the sequences of a list, in its order; without a name those of all ``splits``."""

    @abc.abstractmethod
    def frames(self, sequence: str) -> tuple[str, ...]:
        """Image ids of all frames of a sequence, in order of time; at least one."""
