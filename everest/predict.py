"""Class probabilities of a video, from an exported classifier."""

from pathlib import Path

import numpy as np
import torch

from everest.data.clips import EvaluationViews
from everest.data.decode import DecodeError
from everest.data.files import VideoFile, VideoFiles
from everest.data.index import VideoIndex
from everest.errors import EverestError, UsageError
from everest.export import load_model
from everest.model.classifier import Classifier
from everest.training.evaluate import view_probabilities


class Predictor:
    """An exported classifier on the best device there is."""

    def __init__(self, folder: Path) -> None:
        exported = load_model(folder)
        if not isinstance(exported.model, Classifier):
            raise UsageError(f"{folder} holds a pre-trained autoencoder; fine-tune it first (init: {folder})")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.config, self.classes = exported.model.to(self.device), exported.config, exported.classes
        tests = self.config.evaluate
        self._views = EvaluationViews(
            VideoIndex(folder, VideoFiles.of([]), ()), self.config, tests.segments, tests.crops
        )

    def __call__(self, video: str | Path | VideoFile | np.ndarray) -> dict[str, float]:
        """Class -> probability, most probable first, averaged over the experiment's test views.

        ``video`` is a path, a VideoFile for a window of one, or decoded frames, uint8 (frames, H, W, 3). Raises
        EverestError where it cannot be read or has another shape.
        """
        if isinstance(video, np.ndarray):
            if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not len(video):
                raise EverestError(f"a video array is uint8 (frames, H, W, 3), not {video.dtype} {video.shape}")
            views = self._views.views_of(torch.from_numpy(video))
        else:
            file = video if isinstance(video, VideoFile) else VideoFile(Path(video), None)
            try:
                views = self._views.views(file)
            except DecodeError as error:
                raise EverestError(f"{file.name}: {error}") from None
        chunks = views.to(self.device).split(self.config.evaluate.batch_size)
        probabilities = torch.cat([view_probabilities(self.model, chunk, self.config) for chunk in chunks]).mean(dim=0)
        order = probabilities.argsort(descending=True).tolist()
        return {self.classes[label]: float(probabilities[label]) for label in order}
