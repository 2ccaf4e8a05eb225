"""Settings of one training run, each with its default, checked once."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import combinations
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featcache.errors import UsageError
from featcache.trainer.kinds import ADAPTER_KINDS, SOLVED_KINDS, AdapterKind, JointKind, LossKind

PairWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
VALIDATION_SHARE = 0.1
RESERVED = ("joint", "mixed", "reference", "average", "maximum")
# settings that came after runs of format 2 were first written
_ADDED = (
    "loss", "temperature", "label_smoothing", "mixup", "keep_geometry", "joint",
    "train_groups", "group_rows", "steps", "swap", "swap_rank", "permute_evaluation",
    "clip", "first_groups", "first_rows", "drawn_test", "drawn_validation", "keep_self", "apart",
)  # fmt: skip
# settings of training by steps, which adapters in closed form have no use for
_STEPS = (
    "epochs", "lr", "weight_decay", "warmup", "missing", "loss", "temperature", "label_smoothing", "mixup",
    "keep_geometry", "pair_weights", "steps", "clip",
)  # fmt: skip
# settings of pairs and of losses between them, which training on labels has no use for
UNUSED_BY_LABELS = ("shuffle_pairs", "swap", "mixup", "label_smoothing", "pair_weights")
UNUSED_BY_PRODUCTS = ("label_smoothing", "pair_weights")
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
    clip: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Norm that the gradients of a step are scaled down to; none: kept."
    )
    captions: Literal["sample", "all", "mean"] = Field(
        "sample",
        description="Where a group has several rows: one drawn each epoch, each of them once an epoch, or their mean.",
    )
    missing: Literal["drop", "mask"] = Field(
        "drop",
        description="Training groups that lack a side: left out, or trained on by the pairs of sides that they have.",
    )
    loss: LossKind = Field(
        "infonce",
        description="Loss between two sides: symmetric InfoNCE (CLIP), sigmoid (SigLIP), or 1 - CKA of their kernel "
        "with the reference's, which trains on the reference: a ceiling. Or labels: cross-entropy of the data set's "
        "labels through one linear classifier of all sides, which sees no pairs: a control. Or product: contrast of "
        "all sides at once, by the sum of the products of their entries.",
    )
    temperature: float | None = Field(
        None, ge=0.01, le=10, description="Temperature of the loss, fixed; none: learned, from .07 (SigLIP: .1)."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of InfoNCE's target that is spread evenly.")
    mixup: bool = Field(
        False, description="Train on mixtures of two pairs, one share for the batch: half as many rows (FuseMix)."
    )
    keep_geometry: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the divergence between the neighbourhoods of a batch before and after the adapter "
        "(STRUCTURE: 10), which rises as the learning rate does.",
    )
    joint: JointKind = Field(
        "sum",
        description="The joint space: normalised sum of all sides; their concatenation; a sum with weights chosen on "
        "validation by mutual k-NN with the reference; or with weights learned beside the adapters.",
    )
    pair_weights: dict[str, PairWeight] = Field(
        default_factory=dict, description='Weight of a pair of sides, "a+b", in the loss; 1 where it is not named.'
    )
    first_groups: Annotated[int, Field(ge=2)] | Literal["all"] = Field(
        "all", description="Groups that take part: the first so many of the data set, in its order, or all."
    )
    first_rows: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        "all", description="Rows of a group and side that take part: the first so many, in every split, or all."
    )
    drawn_test: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Splits drawn by split_seed in place of the data set's own: share of the groups (below 1) or "
        "number of them that are test; none: the data set's own.",
    )
    drawn_validation: float = Field(
        VALIDATION_SHARE,
        gt=0,
        lt=1,
        description="Share of the training groups that becomes validation, where the data set has none.",
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
    apart: str = Field(
        "",
        pattern=r"^$|^[^+]+\+[^+]+$",
        description="Control: a pair of sides, A+B, that no training group has both of: half of the groups that do, "
        "drawn by the seed, lose the one and half the other. What the two have in common is learned through a third.",
    )
    swap: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Control: share of the training groups that get the rows of a near neighbour on every side but the "
        "first; those of a smaller share are among them.",
    )
    swap_rank: Annotated[int, Field(ge=1)] | Literal["random"] = Field(
        1, description="Which neighbour that is, by the raw features of the first side; or any other group of those."
    )
    permute_evaluation: bool = Field(
        False,
        description="Control: test is measured once more with every side but the first permuted across groups.",
    )
    select: Literal["retrieval", "alignment", "last"] = Field(
        "retrieval",
        description="The epoch kept is the best on validation by: mean R@10 of all directions, or mutual k-NN of the "
        "joint space with the reference, the first of equals; or it is the last.",
    )
    hits: Literal["content", "group"] = Field(
        "content",
        description="Right answers of retrieval: the rows of the query's group and those of the same text or image as "
        "one of them, or the rows of its group alone.",
    )
    k: int = Field(10, ge=1, description="Neighbours of mutual k-NN.")
    keep_self: bool = Field(
        False,
        description="Test is measured once more with every group among its own k neighbours, as some published studies "
        'do: the metric "mutual_knn_self".',
    )
    permutations: int = Field(1000, ge=39, description="Permutations behind a 95 % null range on test.")
    halves: int = Field(200, ge=20, description="Random halves of the test groups behind intervals and verdicts.")
    untrained: int = Field(10, ge=1, description="Initialisations that stand for untrained adapters on test.")
    seed: int = Field(0, ge=0, lt=2**31, description="Initial weights, order of pairs, drawn captions, control.")
    split_seed: int = Field(0, ge=0, lt=2**31, description="Validation groups, where the data set has none.")
    device: str = Field("cpu", description='Where to train: "cpu", "cuda", "cuda:1", "mps".')

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        for wrong in (self._pairs_contradiction(), self._loss_contradiction(), self._solved_contradiction()):
            if wrong:
                raise ValueError(wrong)
        return self

    def _pairs_contradiction(self) -> str:
        if self.swap and self.shuffle_pairs:
            return "shuffle_pairs permutes every pair, which leaves none to swap"
        if self.apart and (self.swap or self.loss == "product"):
            what = "swaps groups that have every side" if self.swap else "has the loss product of all sides"
            return f"apart leaves no training group with every side, and this training {what}"
        if self.drawn_test is not None and self.drawn_test >= 1 and self.drawn_test % 1:
            return f"drawn_test = {self.drawn_test:g}: wanted a share below 1, or a whole number of groups"
        if self.keep_self and self.k < 2:
            return "keep_self leaves a row no other neighbour at k = 1: k of 2 or more"
        unused = [name for name in UNUSED_BY_LABELS if self.loss == "labels" and getattr(self, name)]
        if unused:
            return f"the loss labels sees no pairs: it has no {', '.join(unused)}"
        return ""

    def _loss_contradiction(self) -> str:
        unused = [name for name in UNUSED_BY_PRODUCTS if self.loss == "product" and getattr(self, name)]
        unused += ["learned joint"] if self.loss == "product" and self.joint == "learned" else []
        if unused:
            return f"the loss product is of all sides at once: it has no {', '.join(unused)}"
        if self.label_smoothing and self.loss != "infonce":
            return f"label_smoothing belongs to the loss infonce, not to {self.loss}"
        if self.loss == "cka" and (self.temperature is not None or self.mixup):
            return "the loss cka has no temperature, and mixtures have no row of the reference: no mixup"
        if self.mixup and self.batch < 4:
            return f"mixup halves a batch, and {self.batch} rows leave no two pairs: batch 4 or more"
        return ""

    def _solved_contradiction(self) -> str:
        kinds = [self.adapter] if isinstance(self.adapter, str) else [*self.adapter.values()]
        solved = [kind for kind in kinds if kind in SOLVED_KINDS]
        if not solved:
            return ""
        if not isinstance(self.adapter, str):
            return f"adapter {solved[0]} is solved for all sides at once: name it alone, without sides"
        default = default_settings()
        changed = [name for name in unused_settings(self.adapter) if getattr(self, name) != default[name]]
        changed += ["joint learned"] if self.joint == "learned" else []
        changed += ["last epoch to select"] if self.select == "last" else []
        return f"adapter {self.adapter} is solved in closed form: it has no {', '.join(changed)}" if changed else ""

    @property
    def solved(self) -> str | None:
        """The kind of all adapters where they are solved in closed form; None where they are trained by steps."""
        return self.adapter if isinstance(self.adapter, str) and self.adapter in SOLVED_KINDS else None

    @property
    def reads_reference(self) -> bool:
        """Whether another reference would give another run: something is fitted to it, or chosen by it."""
        return any(self._uses_of_reference().values())

    def check_reference(self, reference: bool) -> None:
        """Refuses settings that need a reference where there is none.

        Raises:
            UsageError: Names the setting.
        """
        for what, needed in self._uses_of_reference().items():
            if needed and not reference:
                raise UsageError(f"{what}, and there is none\n  Name one with --reference, or choose otherwise")

    def _uses_of_reference(self) -> dict[str, bool]:
        """What reads the reference before test is measured, as an error says it -> whether these settings do."""
        return {
            "--select alignment needs a reference to align with": self.select == "alignment",
            "--loss cka trains on the reference": self.loss == "cka",
            "--joint weighted needs a reference to choose its weights by": self.joint == "weighted",
            "--adapter ridge maps every side to the reference": self.adapter == "ridge",
        }

    def recorded(self) -> dict[str, Any]:
        """The settings as a run keeps them: those of _ADDED only where they are not the default.

        So a run from before they existed and one that leaves them alone are the same.
        """
        settings, default = self.model_dump(mode="json"), default_settings()
        return {name: value for name, value in settings.items() if name not in _ADDED or value != default[name]}

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
        if self.apart and (self.apart not in known or len(names) < 3):
            raise UsageError(
                f"apart {self.apart!r}: wanted A+B of three sides or more; the sides are {', '.join(names)}"
            )
        if self.pair_weights and all(pair_weight(self.pair_weights, a, b) == 0 for a, b in combinations(names, 2)):
            raise UsageError("every pair of sides has weight 0: there is nothing to train")


@cache
def default_settings() -> Mapping[str, Any]:
    """The default of every setting."""
    fields = FitConfig.model_fields.items()
    return MappingProxyType({name: known.get_default(call_default_factory=True) for name, known in fields})


def unused_settings(adapter: str) -> tuple[str, ...]:
    """Settings that a kind of adapter has no use for: of one in closed form, those of training by steps.

    Example:
        >>> unused_settings("mlp"), "loss" in unused_settings("cca"), "width" in unused_settings("asif")
        ((), True, True)
    """
    if adapter not in SOLVED_KINDS:
        return ()
    return (*_STEPS, "width") if adapter in ("ridge", "asif") else _STEPS


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
