"""Mixtures: what makes one score of several views."""

from mmrns.nn.mixtures.base import Mixture, loss_of_view
from mmrns.nn.mixtures.cross import Cross
from mmrns.nn.mixtures.gated import Gated, MeanProbability
from mmrns.nn.mixtures.joint import Joint
from mmrns.nn.mixtures.residual import Residual
from mmrns.nn.mixtures.rsme import RSME

__all__ = ["RSME", "Cross", "Gated", "Joint", "MeanProbability", "Mixture", "Residual", "loss_of_view"]
