"""Pre-trains an encoder to classify ImageNet without the classes that COCO has, so that novel classes stay unseen.

The usual recipe for ImageNet: random crops and flips, SGD with momentum, a cosine schedule. The folder of the output
gets ``model.safetensors``, which every method takes as ``weights``, and ``classes.txt``, what it has seen. An
interrupted training goes on with the same options and ``--resume``.

Usage: python experiments/pretrain_imagenet.py --root ILSVRC/train --encoder resnet50 --exclude coco --out runs/r50
       python experiments/pretrain_imagenet.py --list experiments/imagenet_without_coco.txt   (make imagenet-list)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fewseg.datasets.imagenet import imagenet_classes, kept_classes, list_text
from fewseg.errors import FewsegError
from fewseg.models.base import save_state
from fewseg.modules.encoders import IMAGENET_MEAN, IMAGENET_STD
from fewseg.results import write_json, write_text

SETTINGS = ("encoder", "exclude", "epochs", "batch_size", "lr", "weight_decay", "size", "seed")  # of a resumed training


class Classes(ImageFolder):  # type: ignore[misc]
    """The images of some of ImageNet's classes, in one folder for each.

    Args:
        root: the folder of folders, which are named by WordNet ids.
        ids: of the classes to read, as far as their folders are there.
        transform: of an image.
        option: that names the folder, for errors.

    Raises:
        FewsegError: there is no such folder, none of the classes in it, or no picture in one of them.
    """

    def __init__(self, root: Path, ids: Sequence[str], transform: Any, option: str) -> None:
        if not root.is_dir():
            remedy = "unpack ILSVRC 2012 and pass its folder train"
            raise FewsegError(option, f"{root}, which is no folder", "a folder of WordNet ids", remedy)
        self.wanted = [wnid for wnid in ids if (root / wnid).is_dir()]
        if not self.wanted:
            got = f"{root} without any of the {len(ids)} classes that are learned"
            raise FewsegError(option, got, "folders such as n01440764", "pass the folder train of ILSVRC 2012")
        try:
            super().__init__(str(root), transform)
        except FileNotFoundError as error:
            raise FewsegError(option, error, "pictures in every folder", "unpack the archive again") from None

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The ids that are read, and their numbers."""
        return self.wanted, {wnid: number for number, wnid in enumerate(self.wanted)}


class Classifier(pl.LightningModule):
    """A timm model that learns to name the class of a picture.

    Args:
        encoder: its name.
        n_classes: how many there are.
        lr: at the start; it falls to zero along a cosine.
        weight_decay: on all parameters.
    """

    def __init__(self, encoder: str, n_classes: int, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.model: Any = timm.create_model(encoder, pretrained=False, num_classes=n_classes)
        self.lr, self.weight_decay = lr, weight_decay

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, and the share that is right."""
        logits = self.model(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        right = (logits.argmax(1) == batch[1]).float().mean()
        self.log_dict({"train/loss": loss.detach(), "train/top1": right}, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The share that is right."""
        right = (self.model(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val/top1", right, prog_bar=True, batch_size=len(batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """SGD with momentum, whose rate falls along a cosine with every step."""
        sgd = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def transforms(size: int, training: bool) -> Any:
    """A picture as the encoder's input (3, size, size): a random crop and flip, or the middle of it."""
    shape = (
        [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        if training
        else [v2.Resize(round(size / 0.875), antialias=True), v2.CenterCrop(size)]
    )
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose([*shape, *tensor])


def backbone(classifier: Classifier) -> nn.Module:
    """The model without its classifier, named as timm's ``create_model(name, num_classes=0)``."""
    classifier.model.reset_classifier(0)
    model: nn.Module = classifier.model
    return model


def prepare(options: argparse.Namespace, ids: Sequence[str]) -> Path | None:
    """Writes what is learned into the folder of the output; the checkpoint to go on from, if that is asked for.

    Raises:
        FewsegError: the folder holds a finished training, or there is no such training to go on with.
    """
    classes = imagenet_classes()
    seen = "".join(f"{wnid}  {', '.join(classes[wnid].names)}\n" for wnid in ids)
    settings = {name: getattr(options, name) for name in SETTINGS}
    out, last = options.out, options.out / "last.ckpt"
    if (out / "model.safetensors").exists():
        raise FewsegError("--out", f"{out} with a model.safetensors", "a new folder", "choose another one")
    if options.resume:
        if not last.is_file():
            raise FewsegError("--resume", f"{out} without last.ckpt", "a training that was begun", "leave it out")
        same = json.loads((out / "settings.json").read_text()) == settings
        if not same or (out / "classes.txt").read_text(encoding="utf-8") != seen:
            expected = f"those in {out}/settings.json and classes.txt"
            raise FewsegError("--resume", "other options or other classes", expected, "repeat the same command")
        return Path(last)
    if last.exists():
        raise FewsegError("--out", f"{out} with a last.ckpt", "a new folder", "pass --resume, or choose another one")
    write_json(out / "settings.json", settings)
    write_text(out / "classes.txt", seen)
    return None


def train(options: argparse.Namespace) -> None:
    """Trains and writes the weights.

    Raises:
        FewsegError: an option, or what it names, is wrong.
    """
    if not timm.is_model(options.encoder):
        remedy = 'see timm.list_models("*resnet*")'
        raise FewsegError("--encoder", options.encoder, "the name of a timm model", remedy)
    for name in ("epochs", "batch_size", "size"):
        if getattr(options, name) < 1:
            raise FewsegError(f"--{name.replace('_', '-')}", getattr(options, name), "1 or more", "pass a larger one")
    ids = kept_classes() if options.exclude == "coco" else kept_classes([])
    images = Classes(options.root, ids, transforms(options.size, training=True), "--root")
    # a last batch that is not full would disturb batch normalisation
    loading: dict[str, Any] = {"batch_size": options.batch_size, "num_workers": options.workers}
    loader = DataLoader(images, shuffle=True, drop_last=len(images) >= options.batch_size, **loading)
    validation = None
    if options.val is not None:
        held_out = Classes(options.val, images.wanted, transforms(options.size, training=False), "--val")
        if held_out.wanted != images.wanted:
            got = f"{options.val} with {len(held_out.wanted)} of the {len(images.wanted)} classes of --root"
            raise FewsegError("--val", got, "all of them", "complete it, or leave it out")
        validation = DataLoader(held_out, **loading)
    checkpoint = prepare(options, images.wanted)
    print(f"{len(images)} pictures of {len(images.wanted)} classes; {len(ids)} of ImageNet's 1000 are to be learned")
    pl.seed_everything(options.seed, workers=True, verbose=False)
    classifier = Classifier(options.encoder, len(images.wanted), options.lr, options.weight_decay)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        devices=options.devices,
        precision=options.precision,
        logger=CSVLogger(options.out, name="log"),
        callbacks=[ModelCheckpoint(options.out, filename="last", save_top_k=1, enable_version_counter=False)],
        enable_model_summary=False,
    )
    trainer.fit(classifier, loader, validation, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        save_state(backbone(classifier), options.out / "model.safetensors")
        print(f"weights: {options.out / 'model.safetensors'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, or writes the list; 2 where an option is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--root", type=Path, help="ImageNet's folder train: one folder of pictures for each WordNet id")
    parser.add_argument("--val", type=Path, help="likewise, to measure top-1 after every epoch")
    parser.add_argument("--encoder", default="resnet50", help="the name of a timm model")
    parser.add_argument("--exclude", choices=("coco", "none"), default="coco", help="which classes are left out")
    parser.add_argument("--out", type=Path, help="folder of the output")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=256, help="pictures per step and device")
    parser.add_argument("--lr", type=float, default=0.1, help="at the start, for 256 pictures per step")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--devices", default="auto", help="a number of devices, or auto")
    parser.add_argument("--precision", default="32-true", help="as Lightning names it, e.g. bf16-mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last epoch in the folder of the output")
    parser.add_argument("--list", type=Path, help="only write the list of classes without COCO's to this file")
    options = parser.parse_args(arguments)
    try:
        if options.list is not None:
            write_text(options.list, list_text())
            return 0
        for name in ("root", "out"):
            if getattr(options, name) is None:
                raise FewsegError(f"--{name}", "nothing", "a folder", "see --help")
        train(options)
    except FewsegError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
