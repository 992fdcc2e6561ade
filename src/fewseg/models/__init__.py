"""The zoo: one import line a method. ``__all__`` holds the methods' LightningModules and nothing else."""

from fewseg.models.fgbg import FgBg
from fewseg.models.guided import GuidedNet
from fewseg.models.panet import PANet
from fewseg.models.pretraining import EncoderPretraining as EncoderPretraining

__all__ = ["FgBg", "GuidedNet", "PANet"]
