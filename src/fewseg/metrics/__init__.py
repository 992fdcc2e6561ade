"""Metrics: torchmetrics classes with integer sum states, thin over ``fewseg.functional``."""

from fewseg.metrics.episode_iou import EpisodeIoU

__all__ = ["EpisodeIoU"]
