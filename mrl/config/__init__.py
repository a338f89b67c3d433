"""The typed configuration: every key that a YAML file may hold, with its unit and its default.

Objects are frozen; nothing writes to a configuration after it is built. How files, ``extends:``, ``${VAR}``
and ``--set`` become a :class:`Config` stands in :mod:`mrl.config_file`.
"""

from mrl.config.augmentation import AugmentationConfig
from mrl.config.base import Section
from mrl.config.data import (
    CorpusConfig,
    DataConfig,
    DemoConfig,
    ValidationConfig,
    ValidationListConfig,
)
from mrl.config.evaluation import EvaluationConfig, EvaluationListConfig
from mrl.config.model import LossConfig, ModelConfig, PrefixConfig
from mrl.config.run import PRETRAINED, WARM_START, CheckpointConfig, Config, LoggingConfig, RuntimeConfig
from mrl.config.stage import AverageConfig, LearningRates, LoraConfig, StageConfig

__all__ = [
    "PRETRAINED",
    "WARM_START",
    "AugmentationConfig",
    "AverageConfig",
    "CheckpointConfig",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "DemoConfig",
    "EvaluationConfig",
    "EvaluationListConfig",
    "LearningRates",
    "LoggingConfig",
    "LoraConfig",
    "LossConfig",
    "ModelConfig",
    "PrefixConfig",
    "RuntimeConfig",
    "Section",
    "StageConfig",
    "ValidationConfig",
    "ValidationListConfig",
]
