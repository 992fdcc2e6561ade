"""Pre-training of an encoder on the base classes: dense classification, so that episodes start from useful features.

Baselines of the field train on the base classes in this way (1-NN and logistic regression of OSLSM's table). A
benchmark that pre-trains says so in its table; the novel classes are never seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fewseg.episode import EpisodeBatch
from fewseg.models.base import configure, save_state
from fewseg.modules.encoders import Embedding, Encoder
from fewseg.network import cross_entropy


class EncoderPretraining(LightningModule):
    """Trains an encoder to name the base class of every pixel (0 = background) with ``--data.train_masks=labels``.

    Args:
        encoder: ``tiny`` or a timm name.
        n_classes: largest class number in the masks, background not counted.
        width: channels of the embedding under the classifier.
        lr: peak learning rate.
        weight_decay: on all parameters.
    """

    def __init__(
        self, encoder: str = "tiny", n_classes: int = 15, width: int = 128, lr: float = 4e-3, weight_decay: float = 1e-4
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.weight_decay, self.optimizer_name, self.schedule = lr, weight_decay, "adamw", "one_cycle"
        self.encoder = Encoder(encoder, norm="train")
        self.embedding = Embedding(self.encoder, width)
        self.classifier = nn.Conv2d(width, n_classes + 1, 1)

    def on_train_batch_start(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Seeds torch from the step, so that a resumed training continues exactly."""
        torch.manual_seed(self.global_step)

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """Cross-entropy over the classes outside void."""
        features = self.embedding(self.encoder(batch.query_images))
        scores = self.classifier(F.relu(features.maps[0]))
        logits = F.interpolate(scores, size=batch.query_masks.shape[-2:], mode="bilinear", align_corners=False)
        loss = cross_entropy(logits, batch.query_masks)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def save(self, path: str | Path) -> Path:
        """Writes ``model.safetensors``, which every method takes as ``weights``."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_state(self, folder / "model.safetensors")
        return folder

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle over all parameters."""
        return configure(self, [{"params": list(self.parameters()), "lr": self.lr}])
