"""``python -m benchmarks.camera``: how many of the kept tokens lie on what moves, by ``rero`` and by ``residual``.

Rendered video has known masks. A token lies on a thing where the thing covers at least a tenth of its tubelet.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from everest.config import Experiment, ModelConfig, token_count
from everest.data.camera import CameraMotion
from everest.data.synthetic import CLASSES, SceneName, render_with_mask
from everest.model.embed import TubeletEmbed
from everest.model.masks import ranking
from everest.model.masks.clip import Clip
from everest.model.registry import pretrain_model
from everest.model.select import keep_important

_SIZE, _PATCH, _FRAMES, _STRIDE = 64, 8, 16, 2
_LEAST = 0.1  # of a tubelet
RATIOS = (0.1, 0.3)


class Filmed(NamedTuple):
    """Clips uint8 (B, T, H, W, 3), and which tokens lie on a thing (B, L)."""

    clips: Tensor
    on_things: Tensor

    @classmethod
    def by(cls, camera: CameraMotion, scene: SceneName, videos: int, seed: int = 0) -> "Filmed":
        """So many videos of 64 x 64 pixels, every second of 32 frames, the classes in turns."""
        clips, cover = [], []
        for number in range(videos):
            rng = np.random.default_rng((seed, number))
            clip, mask = render_with_mask(CLASSES[number % len(CLASSES)], _SIZE, _FRAMES * _STRIDE, rng, camera, scene)
            side = _SIZE // _PATCH
            tubelets = mask[::_STRIDE].reshape(_FRAMES // 2, 2, side, _PATCH, side, _PATCH)
            clips.append(torch.from_numpy(clip[::_STRIDE]))
            cover.append(torch.from_numpy(tubelets.mean(axis=(1, 3, 5))).flatten())
        return cls(torch.stack(clips), torch.stack(cover) >= _LEAST)

    def share(self, method: str, ratio: float) -> float:
        """Of the kept tokens, how many lie on a thing, by a random embedding."""
        torch.manual_seed(0)
        config = ModelConfig(image_size=_SIZE, patch_size=_PATCH, num_frames=_FRAMES, embed_dim=192, num_heads=3)
        clip = Clip.cut(TubeletEmbed(config), self.clips, "l2")
        kept = keep_important(ranking(method)(clip, None), token_count(ratio, config.tokens))
        return self.on_things.gather(1, kept).float().mean().item()

    def best(self, ratio: float) -> float:
        """What no method can exceed: things may have fewer tokens than are kept."""
        kept = token_count(ratio, self.on_things.shape[1])
        return (self.on_things.sum(dim=1).clamp(max=kept) / kept).mean().item()


def cost(recipe: str, clips: int) -> str:
    """CPU time a clip, of so many at once, with the network and the clips of a recipe, in one thread."""
    config = Experiment.load(recipe)
    side, model = config.model.image_size, pretrain_model(config)
    noise = torch.randint(0, 256, (clips, config.model.num_frames, side, side, 3), dtype=torch.uint8)
    clip = Clip.cut(model.patch_embed, noise, "l2")

    def milliseconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times) * 1000 / clips

    def step() -> None:
        model(noise).loss.backward()

    rero, residual = (milliseconds(partial(ranking(name), clip, None)) for name in ("rero", "residual"))
    return f"{recipe}: rero {rero:.1f} ms, residual {residual:.1f} ms, a whole step by rero {milliseconds(step):.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=48, help="a camera (48)")
    parser.add_argument("--scene", choices=get_args(SceneName), default="cluttered", help="(cluttered)")
    options = parser.parse_args()
    print("| camera | tokens on things | kept | at most | rero | residual | times |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for camera in get_args(CameraMotion):
        filmed = Filmed.by(camera, options.scene, options.videos)
        for ratio in RATIOS:
            rero, residual = (filmed.share(method, ratio) for method in ("rero", "residual"))
            shares = (filmed.on_things.float().mean().item(), ratio, filmed.best(ratio), rero, residual)
            print(f"| {camera} | {' | '.join(f'{share:.1%}' for share in shares)} | {residual / rero:.2f} |")
    print("\nCPU time a clip")
    torch.set_num_threads(1)
    for recipe, clips in (("demo-pretrain", 64), ("ucf101-pretrain", 2)):
        print(cost(recipe, clips))


if __name__ == "__main__":
    main()
