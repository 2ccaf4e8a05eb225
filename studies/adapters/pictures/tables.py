"""All tables that the page draws of a run."""

from typing import TYPE_CHECKING

from featcache.metrics import chance_mutual_knn
from featcache.studies.adapters.pictures.answers import answer_table
from featcache.studies.adapters.pictures.maps import kernel_table, map_table
from featcache.studies.adapters.pictures.milestones import embed_stages, stage_table
from featcache.studies.adapters.pictures.neighborhoods import kernel_row_table, neighbor_table
from featcache.studies.adapters.pictures.spaces import agreement_table, space_table
from featcache.studies.adapters.results import Evaluation
from featcache.trainer.fit import Fitted

if TYPE_CHECKING:
    import polars as pl


def picture_tables(fitted: Fitted, evaluation: Evaluation) -> "dict[str, pl.DataFrame]":
    """The tables of a run beside its scores, by name, with the columns that `trainer.run_files` declares.

    Args:
        fitted: The training, with its milestones.
        evaluation: Of the same paired sides.
    """
    stages = embed_stages(fitted, evaluation.test)
    agreement = agreement_table(stages)
    chance = chance_mutual_knn(len(evaluation.test.paired.groups), fitted.config.k)
    return {
        "map": map_table(fitted, evaluation.splits),
        "kernels": kernel_table(fitted, evaluation.test),
        "stages": stage_table(stages),
        "spaces": space_table(agreement, chance),
        "agreement": agreement,
        "neighbors": neighbor_table(stages),
        "answers": answer_table(stages),
        "kernel_rows": kernel_row_table(stages),
    }
