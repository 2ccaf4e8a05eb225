"""Names of adapters, losses and joints, for settings and help, without importing torch."""

from typing import Literal, get_args

TrainedKind = Literal["linear", "mlp", "normed-mlp", "bottleneck", "fusemix", "gated", "identity"]
SolvedKind = Literal["procrustes", "cca", "csa", "ridge", "asif"]
AdapterKind = Literal[TrainedKind, SolvedKind]
LossKind = Literal["infonce", "siglip", "cka", "labels", "product"]
JointKind = Literal["sum", "concatenation", "weighted", "learned"]

TRAINED_KINDS: tuple[str, ...] = get_args(TrainedKind)  # by steps
SOLVED_KINDS: tuple[str, ...] = get_args(SolvedKind)  # in closed form, all sides at once
ADAPTER_KINDS: tuple[str, ...] = get_args(AdapterKind)
LOSS_KINDS: tuple[str, ...] = get_args(LossKind)
JOINT_KINDS: tuple[str, ...] = get_args(JointKind)

# of closed forms, as validation chooses them
HYPERPARAMETERS = ("regularization", "penalty", "dimensions", "anchors", "kept", "power")
