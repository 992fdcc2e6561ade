"""The zoo: one import line a method. ``__all__`` holds the methods' LightningModules and nothing else."""

from fewseg.models.cofcn import CoFCN
from fewseg.models.dios import DIOS
from fewseg.models.fbrs import FBRSNet
from fewseg.models.fgbg import FgBg
from fewseg.models.fine_tune import FineTune
from fewseg.models.fsis import FSIS
from fewseg.models.guided import GuidedNet
from fewseg.models.logreg import LogReg
from fewseg.models.mask_rcnn import MaskRCNN
from fewseg.models.nearest_neighbor import NearestNeighbor
from fewseg.models.oslsm import OSLSM
from fewseg.models.osvos import OSVOS
from fewseg.models.panet import PANet
from fewseg.models.pl import PL
from fewseg.models.pretraining import EncoderPretraining as EncoderPretraining
from fewseg.models.sgone import SGOne
from fewseg.models.siamese import Siamese
from fewseg.models.siamese_mask_rcnn import SiameseMaskRCNN

__all__ = [
    "DIOS",
    "FSIS",
    "OSLSM",
    "OSVOS",
    "PL",
    "CoFCN",
    "FBRSNet",
    "FgBg",
    "FineTune",
    "GuidedNet",
    "LogReg",
    "MaskRCNN",
    "NearestNeighbor",
    "PANet",
    "SGOne",
    "Siamese",
    "SiameseMaskRCNN",
]
