"""Exact accuracy of pairs of encoders for each use that their features can be put to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from featcache.data.errors import DataInvalid
from featcache.metrics.probes.few_shot import FEW_SHOT_RIDGE, centred_unit, draw_shots
from featcache.studies.emergence.synthetic.population import exact_accuracy, label_given

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.data.synthetic.generator import Modalities, Table
    from featcache.trainer.ensembles.pairs import Network, PairEnsemble, PairMember
    from featcache.trainer.ensembles.probes import MlpProbeFit

USES = ("joint", "joint_trained", "alone", "few", "transfer", "transfer_mapped")
LABELS = (1, 5, 10)  # a class, of the use "few"
SIDES = {"0": (0,), "1": (1,), "both": (0, 1)}  # the modalities that a classifier reads
_DRAWS_SEED = 7
_NEGLIGIBLE = 1e-8  # of the mean square: a ridge that only keeps collapsed features from dividing by 0


@dataclass(frozen=True)
class UseAccuracy:
    """How well the label is told in one use, averaged over every cell of the label table.

    Args:
        use: Of USES. Classifiers are fitted on the frozen features of the training rows, so that none suffers from a
            head that was still chasing its encoder. joint: a network with one hidden layer reads both modalities.
            joint_trained: the head that was trained with the encoders does. alone: a linear probe reads one modality.
            few: a ridge probe of a few labelled rows, mean over draws. transfer: a linear probe of one modality's
            aligned features, brought to length 1, is fed with those of the other. transfer_mapped: a linear probe of
            all features of the one is fed with the other's through a linear map fitted on pairs without labels.
        side: A key of SIDES; "0→1" and "1→0" of transfers, from the modality with labels to the one without.
        labels: Labelled rows a class; 0 where all training rows are labelled.
        accuracy: Mean of p(chosen class | input).
        bayes_accuracy: The best that any classifier of the same inputs can reach.
    """

    use: str
    side: str
    labels: int
    accuracy: float
    bayes_accuracy: float


@dataclass(frozen=True, eq=False)
class TrainedPairs:
    """Pairs of encoders trained on one data set, and their features of every input.

    Args:
        data: The data set.
        members: What each pair was trained with.
        ensemble: The pairs.
        features: Of both modalities: [E, inputs, features] in the order of the codes of the inputs.
    """

    data: "Modalities"
    members: "list[PairMember]"
    ensemble: "PairEnsemble"
    features: tuple[Float[np.ndarray, "e inputs f"], Float[np.ndarray, "e inputs f"]]

    def rows(self, member: int, split: str) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n f"]]:
        """Features of both encoders of one pair for the rows of a split ("train", "valid" or "test"), in its order."""
        part = self.data.parts[split]
        return self.features[0][member][part.codes1], self.features[1][member][part.codes2]


def use_accuracies(pairs: TrainedPairs, draws: int, probe: "MlpProbeFit | None" = None) -> list[list[UseAccuracy]]:
    """The accuracy of every pair in every use.

    Args:
        pairs: The trained pairs.
        draws: Of few labelled rows; the same for every pair.
        probe: Of the classifiers with a hidden layer; None: the default.

    Returns:
        The uses of each pair, in the order of its members.
    """
    label = [label_given(pairs.data.table, modality) for modality in (0, 1)]
    best = [float(one.max(axis=1).mean()) for one in label]
    both = float(pairs.data.table.max(axis=3).mean())
    joint = _joint_accuracies(pairs, probe)
    few, linear = FewLabels(pairs.data, draws), _linear_accuracies(pairs, label)
    rows: list[list[UseAccuracy]] = []
    for number in range(len(pairs.members)):
        own = [UseAccuracy(use, "both", 0, accuracies[number], both) for use, accuracies in joint.items()]
        own += [
            UseAccuracy(use, side, 0, accuracies[number], best[int(side[-1])])
            for (use, side), accuracies in linear.items()
        ]
        features = pairs.features[0][number], pairs.features[1][number]
        own += [
            UseAccuracy("few", side, labels, few.accuracy(features, side, labels), (*best, both)[place])
            for place, side in enumerate(SIDES)
            for labels in LABELS
            if few.possible(labels)
        ]
        rows.append(own)
    return rows


def _joint_accuracies(pairs: TrainedPairs, probe: "MlpProbeFit | None") -> dict[str, list[float]]:
    """Of a classifier fitted on the frozen features of both modalities, and of the head trained with them."""
    import torch

    from featcache.trainer.ensembles.probes import MlpProbeFit, fit_mlp_classifiers, whitened

    train, raw = pairs.data.parts["train"], [torch.from_numpy(values) for values in pairs.features]
    white = [whitened(values) for values in raw]
    codes, labels = [torch.from_numpy(each) for each in (train.codes1, train.codes2)], torch.from_numpy(train.labels)
    fitted = fit_mlp_classifiers(white, codes, labels, probe or MlpProbeFit())
    trained = pairs.ensemble.networks["joint"]
    with torch.no_grad():
        return {
            "joint": _over_cells(list(zip(fitted.weights, fitted.biases, strict=True)), white, pairs.data.table),
            "joint_trained": _over_cells(trained, raw, pairs.data.table),
        }


def _over_cells(network: "Network", features: "list[Tensor]", table: "Table") -> list[float]:
    """Accuracy of each classifier with one hidden layer over every combination of shared and unique bits."""
    import torch

    from featcache.trainer.ensembles.mlp import SLOPE

    (first, bias), (second, offset) = network
    shared, unique1, unique2, classes = table.shape
    accuracies: list[float] = []
    for number in range(len(first)):
        halves = first[number].split([values.shape[2] for values in features], dim=1)
        part1, part2 = (half @ values[number].T for half, values in zip(halves, features, strict=True))
        hidden = part1.view(-1, shared, unique1, 1) + part2.view(-1, shared, 1, unique2)
        hidden = torch.nn.functional.leaky_relu(hidden.flatten(1) + bias[number], SLOPE)
        chosen = (second[number] @ hidden + offset[number]).argmax(dim=0).numpy()
        accuracies.append(exact_accuracy(table.reshape(-1, classes), chosen))
    return accuracies


def _linear_accuracies(pairs: TrainedPairs, label: list[np.ndarray]) -> dict[tuple[str, str], list[float]]:
    """Of probes fitted on one modality with the labels of all training rows, used on it or on the other."""
    import torch

    from featcache.trainer.ensembles.probes import fit_linear_probes

    train, accuracies = pairs.data.parts["train"], dict[tuple[str, str], list[float]]()
    codes, whole = (train.codes1, train.codes2), [torch.from_numpy(values).double() for values in pairs.features]
    shown = torch.arange(whole[0].shape[2])
    aligned = torch.stack([shown < member.aligned for member in pairs.members])[:, None]
    unit = [torch.nn.functional.normalize(values * aligned, dim=2) for values in whole]
    for source, other in ((0, 1), (1, 0)):
        counts = np.zeros_like(label[source])
        np.add.at(counts, (codes[source], train.labels), 1)
        targets = torch.from_numpy(counts)
        on_whole, on_unit = (fit_linear_probes(values[source], targets, "classes") for values in (whole, unit))
        mapped = _mapped((whole[other], codes[other]), (whole[source], codes[source]))
        for use, side, logits in (
            ("alone", str(source), on_whole(whole[source])),
            ("transfer", f"{source}→{other}", on_unit(unit[other])),
            ("transfer_mapped", f"{source}→{other}", on_whole(mapped)),
        ):
            judged = label[int(side[-1])]
            accuracies[use, side] = [exact_accuracy(judged, one) for one in logits.argmax(dim=2).numpy()]
    return accuracies


def _mapped(given: "tuple[Tensor, np.ndarray]", onto: "tuple[Tensor, np.ndarray]") -> "Tensor":
    """Features of every input, through the least-squares map onto other features of the same training rows.

    Args:
        given: Features of every input, and which input each training row is.
        onto: The same of the other modality.
    """
    import torch

    values, at = given
    rows, maps = torch.cat([values, torch.ones(*values.shape[:2], 1, dtype=values.dtype)], dim=2), []
    for own, goal in zip(rows, onto[0], strict=True):
        seen = own[at]
        square = seen.T @ seen
        ridge = _NEGLIGIBLE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
        maps.append(torch.linalg.solve(square + ridge, seen.T @ goal[onto[1]]))
    return rows @ torch.stack(maps)


class FewLabels:
    """Probes of a few labelled training rows, judged over every input.

    Features are centred, and each modality's brought to total variance 1, by all inputs without labels; the probe is
    ridge regression on the classes.

    Args:
        data: Training rows and label table.
        draws: Of labelled rows, the same whatever features they are told by.
    """

    def __init__(self, data: "Modalities", draws: int) -> None:
        self._table = data.table
        self._codes = data.parts["train"].codes1, data.parts["train"].codes2
        labels = data.parts["train"].labels
        self._classes = data.table.shape[3]
        self._least = int(np.bincount(labels, minlength=self._classes).min())
        self._drawn = {
            few: few_rows(labels, self._classes, few, draws, _DRAWS_SEED) for few in LABELS if self.possible(few)
        }

    def possible(self, labels: int) -> bool:
        """Whether every class has so many training rows."""
        return labels <= self._least

    def accuracy(
        self, features: tuple[Float[np.ndarray, "inputs f"], Float[np.ndarray, "inputs f"]], side: str, labels: int
    ) -> float:
        """Mean accuracy over the draws.

        Args:
            features: Of every input, of both modalities.
            side: A key of SIDES: what the probe reads.
            labels: Rows a class.
        """
        read = [_scaled(features[modality]) for modality in SIDES[side]]
        codes = [self._codes[modality][self._drawn[labels]] for modality in SIDES[side]]
        goal = np.repeat(np.eye(self._classes), labels, axis=0) - 1 / self._classes
        rows = np.concatenate([values[at] for values, at in zip(read, codes, strict=True)], axis=2)
        gram = rows @ rows.transpose(0, 2, 1) + FEW_SHOT_RIDGE * np.eye(rows.shape[1])
        weights = rows.transpose(0, 2, 1) @ np.linalg.solve(gram, np.broadcast_to(goal, (len(gram), *goal.shape)))
        parts = np.split(weights, np.cumsum([values.shape[1] for values in read])[:-1], axis=1)
        scores = [
            (part.transpose(0, 2, 1) @ values.T).astype(np.float32) for values, part in zip(read, parts, strict=True)
        ]  # [draws, classes, inputs]
        return float(np.mean([self._exact([score[draw] for score in scores], side) for draw in range(len(weights))]))

    def _exact(self, scores: list[np.ndarray], side: str) -> float:
        if len(scores) == 1:
            return exact_accuracy(label_given(self._table, SIDES[side][0]), scores[0].argmax(axis=0))
        shared, unique1, unique2, classes = self._table.shape
        joint = scores[0].reshape(classes, shared, unique1, 1) + scores[1].reshape(classes, shared, 1, unique2)
        return exact_accuracy(self._table.reshape(-1, classes), joint.argmax(axis=0).ravel())


def few_rows(
    labels: Int[np.ndarray, " n"], classes: int, per_class: int, draws: int, seed: int
) -> Int[np.ndarray, "draws rows"]:
    """Draws of a few rows of each class, class by class, without replacement within a draw.

    Args:
        labels: Class of each row.
        classes: Number of classes.
        per_class: Rows of each class in a draw.
        draws: How many.
        seed: Of the draws; more draws begin with the same ones.

    Raises:
        DataInvalid: If a class has fewer rows.

    Example:
        >>> few_rows(np.array([0, 1, 1, 0]), 2, 2, 1, seed=0).shape
        (1, 4)
    """
    least = int(np.bincount(labels, minlength=classes).min())
    if least < per_class:
        raise DataInvalid(f"wanted {per_class} labelled rows of each class: the rarest has {least}")
    return draw_shots(labels, np.ones(len(labels), bool), per_class, draws=draws, seed=seed)


def _scaled(features: Float[np.ndarray, "inputs f"]) -> Float[np.ndarray, "inputs f"]:
    return centred_unit(features.astype(np.float64), np.ones(len(features), bool))
