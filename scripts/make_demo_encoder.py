"""Train the demo's small pretrained encoder from scratch: ``python scripts/make_demo_encoder.py``.

It is a ReDimNet in miniature, trained on another population of synthesised speakers and rooms than the demo's,
at full size only, and written in the released format. The result is part of the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from mrl.audio import SAMPLE_RATE
from mrl.config import AugmentationConfig, CorpusConfig, DataConfig
from mrl.console import Console
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.corpus import scan
from mrl.data.demo import POPULATION, DemoPlan, write_demo_corpus
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset
from mrl.data.sampling import Sampling
from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets
from mrl.models.pretrained import build_released, save_released
from mrl.standard_streams import open_missing

MODEL_CONFIG = {
    "F": 40,
    "C": 6,
    "block_1d_type": "conv+att",
    "block_2d_type": "convnext_like",
    "stages_setup": [[2, 1, 1, [[3, 3]], 10], [2, 1, 1, [[3, 3]], 10]],
    "group_divisor": 4,
    "out_channels": None,
    "embed_dim": 64,
    "hop_length": 240,
    "pooling_func": "ASTP",
    "global_context_att": True,
}
SEED = 1
CROP_SECONDS = 2.0
BATCH = 64
PEAK_RATE = 4e-3
AUGMENTATION = AugmentationConfig(
    noise_probability=0.3, babble_probability=0.1, room_probability=0.3, gain_probability=0.3
)


def main() -> None:
    open_missing()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("configs/demo_encoder.pt"))
    parser.add_argument("--corpus", type=Path, default=Path("data/demo_pretraining"))
    parser.add_argument("--speakers", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    console = Console()
    plan = DemoPlan(options.speakers, sessions_per_speaker=3, utterances_per_session=4, seed=POPULATION + 1)
    write_demo_corpus(options.corpus, plan)
    model = build_released(MODEL_CONFIG, seed=SEED)
    train(model, options.corpus, options.epochs, console)
    save_released(model, MODEL_CONFIG, options.output)
    console.say(f"{options.output}: {options.output.stat().st_size / 1e3:.0f} kB")


def train(model: nn.Module, root: Path, epochs: int, console: Console) -> None:
    """A plain AAM-softmax training at full size, one-cycle rate, margin rising over the first third."""
    corpus = scan(root, manifest_dir=None)
    torch.manual_seed(SEED)
    dim = MODEL_CONFIG["embed_dim"]
    assert isinstance(dim, int)
    classifier = SlicedClassifier(len(corpus.speakers), [dim], [MarginSoftmax()], [30.0])
    augmenter = Augmenter(AUGMENTATION, seed=SEED, banks=ClipBanks())
    plain = DataConfig(train=(CorpusConfig(path=root),))
    batches = EpochBatches(Sampling(corpus, plain, SEED), BATCH)
    loader = make_loader(CropDataset(corpus, round(CROP_SECONDS * SAMPLE_RATE), SEED), batches, 0, False)
    optimizer = torch.optim.AdamW([*model.parameters(), *classifier.parameters()], weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=epochs * batches.steps_per_epoch, pct_start=0.2
    )
    model.train()
    for epoch in range(1, epochs + 1):
        settings = PrefixSettings(margins=(0.2 * min(1.0, 3 * epoch / epochs),), weights=(1.0,))
        batches.set_epoch(epoch)
        with console.progress(f"epoch {epoch}/{epochs}", batches.steps_per_epoch) as bar:
            for batch in loader:
                waveforms = augmenter(batch.waveforms, batch.utterances, batch.speakers, epoch=epoch)
                loss = classifier(model(waveforms), Targets(batch.speakers), settings).total
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                bar.advance(1, loss=f"{loss.item():.3f}")
    model.eval()


if __name__ == "__main__":
    main()
