"""Metrics over episodes."""

from fewseg.metrics.episode_iou import EpisodeIoU
from fewseg.metrics.guidance_variance import GuidanceVariance

__all__ = ["EpisodeIoU", "GuidanceVariance"]
