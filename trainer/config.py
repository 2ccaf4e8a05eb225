"""Settings of one training run, each with its default, checked once."""

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featcache.errors import UsageError
from featcache.trainer.kinds import ADAPTER_KINDS, AdapterKind

PairWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
RESERVED = ("joint", "mixed", "reference", "average", "maximum")
# settings that came after runs of format 2 were first written
_ADDED = ("train_groups", "group_rows", "steps", "swap", "swap_rank", "permute_evaluation")
_SIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


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

    adapter: AdapterKind | dict[str, AdapterKind] = Field(
        "linear", description="Architecture of every side's adapter, or side -> architecture; identity freezes a side."
    )
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
    missing: Literal["drop", "mask"] = Field(
        "drop",
        description="Training groups that lack a side: left out, or trained on by the pairs of sides that they have.",
    )
    pair_weights: dict[str, PairWeight] = Field(
        default_factory=dict, description='Weight of a pair of sides, "a+b", in the loss; 1 where it is not named.'
    )
    train_groups: Annotated[int, Field(ge=2)] | Literal["all"] = Field(
        "all", description="Training groups: so many, drawn by the seed, those of a smaller number among them; or all."
    )
    group_rows: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        "all", description="Rows of a group and side that are trained on: the first so many, or all."
    )
    steps: Annotated[int, Field(ge=1)] | Literal["pass"] = Field(
        "pass", description="Steps an epoch: so many batches, over as many passes as that takes; or those of one pass."
    )
    shuffle_pairs: bool = Field(False, description="Control: training pairs permuted across groups.")
    swap: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Control: share of the training groups that get the rows of a near neighbour on every side but the "
        "first; those of a smaller share are among them.",
    )
    swap_rank: int = Field(1, ge=1, description="Which neighbour that is, by the raw features of the first side.")
    permute_evaluation: bool = Field(
        False,
        description="Control: test is measured once more with every side but the first permuted across groups.",
    )
    select: Literal["retrieval", "alignment"] = Field(
        "retrieval",
        description="The epoch kept is the best on validation by: mean R@10 of all directions, or mutual k-NN of the "
        "joint space with the reference. The first of equals.",
    )
    hits: Literal["content", "group"] = Field(
        "content",
        description="Right answers of retrieval: the rows of the query's group and those of the same text or image as "
        "one of them, or the rows of its group alone.",
    )
    k: int = Field(10, ge=1, description="Neighbours of mutual k-NN.")
    permutations: int = Field(1000, ge=39, description="Permutations behind a 95 % null range on test.")
    halves: int = Field(200, ge=20, description="Random halves of the test groups behind intervals and verdicts.")
    untrained: int = Field(10, ge=1, description="Initialisations that stand for untrained adapters on test.")
    seed: int = Field(0, ge=0, lt=2**31, description="Initial weights, order of pairs, drawn captions, control.")
    split_seed: int = Field(0, ge=0, lt=2**31, description="Validation groups, where the data set has none.")
    device: str = Field("cpu", description='Where to train: "cpu", "cuda", "cuda:1", "mps".')

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        for wrong in (self._pairs_contradiction(),):
            if wrong:
                raise ValueError(wrong)
        return self

    def _pairs_contradiction(self) -> str:
        if self.swap and self.shuffle_pairs:
            return "shuffle_pairs permutes every pair, which leaves none to swap"
        return ""

    @property
    def reads_reference(self) -> bool:
        """Whether another reference would give other weights: training or the choice of the epoch reads it."""
        return self.select == "alignment"

    def recorded(self) -> dict[str, Any]:
        """The settings as a run keeps them: those of _ADDED only where they are not the default.

        So a run from before they existed and one that leaves them alone are the same.
        """
        settings = self.model_dump(mode="json")
        default = {name: FitConfig.model_fields[name].default for name in _ADDED}
        return {name: value for name, value in settings.items() if name not in default or value != default[name]}

    def adapter_kinds(self, sides: Iterable[str]) -> dict[str, str]:
        """Architecture of each side's adapter.

        Raises:
            UsageError: If a side that the settings name is not there, or one that is there is not named.
        """
        if isinstance(self.adapter, str):
            return dict.fromkeys(sides, self.adapter)
        names = [*sides]
        if set(names) != set(self.adapter):
            raise UsageError(
                f"adapters are given for {', '.join(self.adapter)}, the sides are {', '.join(names)}\n"
                "  Name one adapter for all sides, or side=adapter for each"
            )
        return {name: self.adapter[name] for name in names}

    def check_sides(self, sides: Iterable[str]) -> None:
        """Refuses names that no side can have, and settings that name sides that are not there.

        Raises:
            UsageError: Names them and the sides.
        """
        names = [*sides]
        check_side_names(names)
        self.adapter_kinds(names)
        pairs = {f"{a}+{b}": f"{b}+{a}" for a, b in combinations(names, 2)}
        known = {*pairs, *pairs.values()}
        for pair in self.pair_weights:
            if pair not in known:
                raise UsageError(f"pair weight {pair!r}: wanted A+B of the sides {', '.join(names)}")
            if pairs.get(pair) in self.pair_weights:
                raise UsageError(f"pair weights {pair!r} and {pairs[pair]!r} are of one pair; give one")
        if self.pair_weights and all(pair_weight(self.pair_weights, a, b) == 0 for a, b in combinations(names, 2)):
            raise UsageError("every pair of sides has weight 0: there is nothing to train")


def check_side_names(names: Iterable[str]) -> None:
    """Refuses names that spaces of a run have, and such as cannot stand in a joint's name or a file's.

    Raises:
        UsageError: Names the first.
    """
    for name in names:
        if name in RESERVED or not _SIDE.fullmatch(name):
            raise UsageError(f"{name!r} cannot be the name of a side\n  Take another, as in photo=resnet18")


def parse_adapter(text: str | None) -> str | dict[str, str] | None:
    """An adapter as typed: one kind for all sides, or side=kind with commas between.

    Raises:
        UsageError: If a part has no "=", or a kind is unknown; lists those there are.

    Example:
        >>> parse_adapter("mlp"), parse_adapter("images=identity,captions=mlp")
        ('mlp', {'images': 'identity', 'captions': 'mlp'})
    """
    if text is None:
        return None
    parts = [part.rpartition("=") for part in (text.split(",") if "=" in text else [text])]
    unknown = [kind for _, _, kind in parts if kind not in ADAPTER_KINDS]
    if unknown or ("=" in text and not all(name for name, _, _ in parts)):
        kinds = ", ".join(ADAPTER_KINDS)
        raise UsageError(f"adapter {text!r}: wanted one of {kinds} for all sides, or side=kind,side=kind")
    return {name: kind for name, _, kind in parts} if "=" in text else text


def parse_pair_weights(typed: Iterable[str]) -> dict[str, float] | None:
    """Weights of pairs of sides as typed, A+B=W each; None where there are none.

    Raises:
        UsageError: If one is not of that form.

    Example:
        >>> parse_pair_weights(["images+captions=2", "images+speech=0.5"])
        {'images+captions': 2.0, 'images+speech': 0.5}
    """
    weights: dict[str, float] = {}
    for text in typed:
        pair, _, number = text.rpartition("=")
        try:
            weights[pair] = float(number)
        except ValueError:
            raise UsageError(f"pair weight {text!r}: wanted A+B=W, as in images+captions=2") from None
        if pair.count("+") != 1 or not 0 <= weights[pair] < float("inf"):
            raise UsageError(f"pair weight {text!r}: wanted A+B=W with W at least 0, as in images+captions=2")
    return weights or None


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
        raise UsageError("\n  ".join(map(_wrong_setting, error.errors()))) from None


def _wrong_setting(error: Mapping[str, Any]) -> str:
    if not error["loc"]:  # of settings that contradict each other
        return error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, error['loc']))} = {error['input']!r}: {error['msg']}"


def pair_weight(weights: Mapping[str, float] | None, a: str, b: str) -> float:
    """Weight of a pair of sides, named in either order; 1 where it is not named."""
    named = weights or {}
    return named.get(f"{a}+{b}", named.get(f"{b}+{a}", 1.0))
