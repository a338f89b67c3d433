"""What a stage does to its training crops."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrl.config.base import (
    Count,
    NonNegative,
    Positive,
    Probability,
    Range,
    Section,
    require_default,
    require_low_to_high,
    require_unique,
)

Codec = Literal["opus", "mp3", "aac"]


class AugmentationConfig(Section):
    ramp_epochs: NonNegative = 0.0
    """Curriculum: all probabilities rise from 0 to their value over so many epochs of the stage."""
    speed_probability: Probability = 0.0
    """Share of crops played faster or slower."""
    speed_factors: tuple[Annotated[float, Field(ge=0.5, le=2.0)], ...] = (0.9, 1.1)
    """How much faster; one of them is drawn."""
    speed_labels: Literal["new", "same"] = "new"
    """A speaker at another speed is a new speaker (as many classes more as there are factors), or the same."""
    codec_probability: Probability = 0.0
    """Share of crops that are coded and decoded again."""
    codecs: Annotated[tuple[Codec, ...], Field(min_length=1)] = ("opus", "mp3")
    """By which codecs; aac needs FFmpeg."""
    codec_kbps: Range = (8.0, 32.0)
    """Bit rate."""
    noise_probability: Probability = 0.0
    """Share of crops with noise: from ``data.noise``, or coloured noise where that is not set."""
    noise_snr_db: Range = (0.0, 15.0)
    """Speech-to-noise ratio over the crop, dB, drawn evenly."""
    music_probability: Probability = 0.0
    """Share of crops with music from ``data.music``."""
    music_snr_db: Range = (5.0, 15.0)
    """Speech-to-music ratio, dB."""
    babble_probability: Probability = 0.0
    """Share of crops with others talking: from ``data.babble``, or the other utterances of the batch."""
    babble_snr_db: Range = (13.0, 20.0)
    """Speech-to-babble ratio, dB."""
    babble_speakers: tuple[Count, Count] = (3, 8)
    """How many of them."""
    room_probability: Probability = 0.0
    """Share of crops in a room: from ``data.room_responses``, or a synthetic one where that is not set."""
    room_decay_seconds: tuple[Positive, Positive] = (0.2, 0.8)
    """Reverberation time (RT60) of synthetic rooms."""
    telephone_probability: Probability = 0.0
    """Share of crops through a telephone: 300 to 3400 Hz, 8 kHz, mu-law."""
    gain_probability: Probability = 0.0
    """Share of crops whose level is changed."""
    gain_db: Range = (-10.0, 6.0)
    """By so many dB."""
    clipping_probability: Probability = 0.0
    """Share of crops that are clipped."""
    clipping_level: tuple[Positive, Positive] = (0.2, 0.8)
    """At this share of the crop's peak."""
    mixup_probability: Probability = 0.0
    """Share of crops mixed with another of the batch; their labels are mixed alike."""
    mixup_alpha: Positive = 0.5
    """The mixing share is drawn from Beta(alpha, alpha)."""
    spec_probability: Probability = 0.0
    """SpecAugment: share of crops whose mel image gets masks."""
    spec_time_masks: Annotated[int, Field(ge=0)] = 1
    """Time masks for each."""
    spec_time_seconds: Positive = 0.1
    """Longest time mask."""
    spec_band_masks: Annotated[int, Field(ge=0)] = 1
    """Frequency masks for each."""
    spec_bands: Count = 10
    """Widest frequency mask, in mel bands."""

    @field_validator(
        *("codec_kbps", "noise_snr_db", "music_snr_db", "babble_snr_db", "babble_speakers"),
        *("room_decay_seconds", "gain_db", "clipping_level"),
    )
    @classmethod
    def _low_to_high(cls, limits: Range) -> Range:
        return require_low_to_high(limits)

    @field_validator("codecs", "speed_factors")
    @classmethod
    def _once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        return require_unique(values)

    @model_validator(mode="after")
    def _consistent(self) -> AugmentationConfig:
        if not self.speed_factors or 1.0 in self.speed_factors:
            raise ValueError("speed_factors must name one speed or more other than 1")
        for effect, options in _OPTIONS.items():
            if not getattr(self, f"{effect}_probability"):
                require_default(self, options, f"does nothing without {effect}_probability")
        if not any(getattr(self, f"{effect}_probability") for effect in _EFFECTS):
            require_default(self, ("ramp_epochs",), "does nothing without any effect")
        if self.codec_kbps[0] < 6.0:
            raise ValueError(f"codec_kbps must be at least 6, not {self.codec_kbps[0]:g}")
        if self.clipping_level[1] > 1.0:
            raise ValueError("clipping_level is a share of the peak, at most 1")
        if self.spec_probability and not self.spec_time_masks + self.spec_band_masks:
            raise ValueError("spec_probability needs spec_time_masks or spec_band_masks")
        return self

    @property
    def speed_classes(self) -> tuple[float, ...]:
        """The speeds at which a speaker is a class of its own, beside the true speed."""
        return self.speed_factors if self.speed_probability and self.speed_labels == "new" else ()


_OPTIONS = {  # what is read only where the effect has a probability
    "speed": ("speed_labels", "speed_factors"),
    "codec": ("codecs", "codec_kbps"),
    "noise": ("noise_snr_db",),
    "music": ("music_snr_db",),
    "babble": ("babble_snr_db", "babble_speakers"),
    "room": ("room_decay_seconds",),
    "gain": ("gain_db",),
    "clipping": ("clipping_level",),
    "mixup": ("mixup_alpha",),
    "spec": ("spec_time_masks", "spec_time_seconds", "spec_band_masks", "spec_bands"),
}
_EFFECTS = (*_OPTIONS, "telephone")
