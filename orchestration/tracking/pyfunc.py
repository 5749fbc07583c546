"""The classifier as MLflow loads it: this file is stored with the model instead of a pickle.

Input: the path of a video, a list of paths, decoded frames as a uint8 array (frames, H, W, 3), or a table with
a column ``video`` of paths. Output: for each video its classes with their probabilities, most probable first.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from everest.predict import Predictor


class Answers:
    """Apart from the class below and without hints: MLflow would make them a schema that all input must have."""

    predictor: Predictor

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if isinstance(model_input, str | np.ndarray):
            return [self.predictor(model_input)]
        videos = model_input["video"] if hasattr(model_input, "columns") else model_input
        return [self.predictor(video) for video in videos]


class EverestClassifier(Answers, mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        self.predictor = Predictor(Path(context.artifacts["model"]))


mlflow.models.set_model(EverestClassifier())
