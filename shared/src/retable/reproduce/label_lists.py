"""Published lists of the images that keep their labels, which a user has and a table names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retable.evaluate.data import EvalData
from retable.evaluate.protocol import Evaluation


@dataclass(frozen=True)
class LabelLists:
    """Files of one folder, each for an evaluation that learns from a share of the labels.

    Attributes:
        option: name of the option that takes the folder, without dashes before it.
        what: whose lists they are.
        files: file name by the name of the evaluation.
    """

    option: str
    what: str
    files: Mapping[str, str]

    def used_by(self, evaluation: Evaluation, folder: str) -> Evaluation:
        """Return the evaluation with its list, or as it is if it has none."""
        if evaluation.name not in self.files:
            return evaluation
        path = str(Path(folder) / self.files[evaluation.name])
        listed = EvalData(evaluation.data.source, split=evaluation.data.split, files=path)
        return evaluation.with_data(listed)

    @property
    def note(self) -> str:
        """What a comparison without the lists says."""
        names, files = ", ".join(self.files), " and ".join(self.files.values())
        return (
            f"{names}: the labels are a share of each class that was drawn here, not {self.what}; "
            f"--{self.option} DIR reads {files} in DIR."
        )
