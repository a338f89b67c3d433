"""Losses at every prefix of an embedding at once."""

from mrl.loss.build import build_loss, class_speeds
from mrl.loss.classifier import SlicedClassifier
from mrl.loss.softmax import MarginSoftmax
from mrl.loss.terms import LossTerms, PrefixSettings, SlicedLoss, Targets

__all__ = [
    "LossTerms",
    "MarginSoftmax",
    "PrefixSettings",
    "SlicedClassifier",
    "SlicedLoss",
    "Targets",
    "build_loss",
    "class_speeds",
]
