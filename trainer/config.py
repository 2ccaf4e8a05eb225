"""Settings of one training run, each with its default, checked once."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featcache.errors import UsageError


class FitConfig(BaseModel):
    """Settings of one training run; what it does not name is fixed in code.

    The defaults were measured on image and caption features of small encoders; alignment with the reference peaks
    within the first epochs and falls while retrieval still rises, so every epoch is measured and `select` says which
    one is kept.

    Example:
        >>> FitConfig(epochs=5).width
        256
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: Literal["linear", "mlp", "bottleneck"] = Field("linear", description="Architecture of both adapters.")
    width: int = Field(256, ge=2, le=65_536, description="Dimensions of the joint space.")
    epochs: int = Field(20, ge=1, description="Epochs; always all of them, no early stop.")
    batch: int = Field(512, ge=2, description="Pairs a step.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW; cosine decay to zero.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay; not applied to biases or temperature.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    captions: Literal["sample", "all", "mean"] = Field(
        "sample",
        description="Where a group has several rows: one drawn each epoch, each of them once an epoch, or their mean.",
    )
    shuffle_pairs: bool = Field(False, description="Control: training pairs permuted across groups.")
    select: Literal["retrieval", "alignment"] = Field(
        "retrieval",
        description="The epoch kept is the best on validation by: mean R@10 of both directions, or mutual k-NN of the "
        "joint space with the reference. The first of equals.",
    )
    k: int = Field(10, ge=1, description="Neighbours of mutual k-NN.")
    permutations: int = Field(
        1000,
        ge=100,
        description="Permutations behind a 95 % null range on test (CKA above 500 groups: exact moments instead).",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Initial weights, order of pairs, drawn captions, control.")
    split_seed: int = Field(0, ge=0, lt=2**31, description="Validation groups, where the data set has none.")
    device: str = Field("cpu", description='Where to train: "cpu", "cuda", "cuda:1", "mps".')


def make_config(**choices: Any) -> FitConfig:
    """A configuration from the choices that are not None.

    Raises:
        UsageError: If a choice is not allowed; names it and what is.

    Example:
        >>> make_config(adapter="mlp", epochs=None).epochs == FitConfig().epochs
        True
    """
    try:
        return FitConfig(**{name: value for name, value in choices.items() if value is not None})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise UsageError("\n  ".join(lines)) from None
