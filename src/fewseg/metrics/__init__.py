"""Metrics over episodes: sums that add up exactly over processes, thin over ``fewseg.functional``."""

from fewseg.metrics.episode_iou import EpisodeIoU
from fewseg.metrics.guidance_variance import GuidanceVariance

__all__ = ["EpisodeIoU", "GuidanceVariance"]
