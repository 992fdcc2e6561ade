"""Episodes as batches: one data module for every data set and task."""

from fewseg.datamodules.few_shot import FewShotDataModule

__all__ = ["FewShotDataModule"]
