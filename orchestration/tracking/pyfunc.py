"""The classifier as MLflow loads it: this file is stored with the model instead of a pickle, and ``everest`` beside it.

Input: the path of a video, a list or an array of paths, decoded frames as a uint8 array (frames, H, W, 3), or a table
with a column ``video`` of paths. Output: for each video its classes with their probabilities, most probable first.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from everest.errors import EverestError
from everest.predict import Predictor


class Answers:
    """Apart from the class below and without hints: MLflow would make them a schema that all input must have."""

    predictor: Predictor

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return [self.predictor(video) for video in _videos(model_input)]


class EverestClassifier(Answers, mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(Path(context.artifacts["model"]))


def _videos(given: Any) -> Any:
    """Each is a path or its frames. A server makes arrays of paths, and dictionaries of columns."""
    if isinstance(given, dict) or hasattr(given, "columns"):
        if "video" not in given:
            raise EverestError(f"a table of videos has a column 'video'; this one has: {', '.join(map(str, given))}")
        given = given["video"]
    if isinstance(given, np.ndarray):
        return [given] if given.dtype.kind in "biuf" else given.reshape(-1).tolist()
    return [given] if isinstance(given, str) else given


mlflow.models.set_model(EverestClassifier())
