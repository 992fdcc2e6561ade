"""fewseg: few-shot segmentation methods under one trainer and one exact protocol."""

__version__ = "0.1.0"
