"""Losses at every prefix of an embedding at once."""

from mrl.loss.build import build_loss, class_speeds
from mrl.loss.classifier import SlicedClassifier
from mrl.loss.pairs import SlicedPairLoss
from mrl.loss.softmax import MarginSoftmax
from mrl.loss.teacher import TeacherTerm
from mrl.loss.terms import LossTerms, PrefixSettings, SlicedLoss, Targets

__all__ = [
    "LossTerms",
    "MarginSoftmax",
    "PrefixSettings",
    "SlicedClassifier",
    "SlicedLoss",
    "SlicedPairLoss",
    "Targets",
    "TeacherTerm",
    "build_loss",
    "class_speeds",
]
