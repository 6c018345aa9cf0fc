"""`mimsuite reconstruct`: a picture of what a model predicts of masked images, pixels or features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.pictures.metrics import write_metrics
from mimsuite.pictures.saving import save_animation, save_image
from mimsuite.pictures.scene import Scene
from mimsuite.runs.console import log_to_console, report_next
from mimsuite.settings.reconstruct import AnimationSettings, ReconstructSettings, read_reconstruct

if TYPE_CHECKING:
    from PIL.Image import Image

    from mimsuite.pictures.scene import Drawing

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Draws one sheet, or with `gif` an animation of the sheets that a run wrote.

    Returns:
        The masked loss (that of the run; of weights alone L1) and, of pixels, the mean PSNR, or of features their loss
        and mean cosine; with `ratios` or
        `masks` a list of these, one per setting; with `gif` the steps of the frames.
    """
    log_to_console()
    settings = read_reconstruct(cfg, overrides)
    return animate(settings) if isinstance(settings, AnimationSettings) else draw(settings)


def draw(settings: ReconstructSettings) -> dict[str, Any]:
    """Draws the sheet, and writes the table where one is wanted."""
    scene, choices = Scene(settings.model, settings.images, count=settings.count), settings.masks
    masks = scene.masks(choices, seed=settings.seed, trusted=settings.trusted)
    results = scene.show(masks, mode=settings.mode, channels=settings.channels)
    if settings.compared:
        save_image(compare_settings({c.title: r for c, r in zip(choices, results, strict=True)}, scene), settings.out)
    else:
        save_image(results[0].sheet(scene.title), settings.out)
    if settings.table is not None:
        write_metrics(settings.table, scene.names, choices, results)
    metrics = [result.of_all() for result in results]
    for choice, values in zip(choices, metrics, strict=True):
        text = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())
        log.info("%s%s over %d images", f"{choice.title}: " if settings.compared else "", text, len(scene.names))
    log.info("picture in %s%s", settings.out, f", table in {settings.table}" if settings.table else "")
    if not settings.compared:
        if choices[0].ratio is not None:
            beside = settings.out.with_name(f"{settings.out.stem}-ratios.png")
            more = {"init": settings.model.weights.init, "images": settings.images, "out": beside}
            report_next("compare shares of hidden units", "reconstruct", ratios=(0.3, 0.6, 0.9), **more)
        return {**metrics[0], "out": str(settings.out)}
    pairs = zip(choices, metrics, strict=True)
    rows = [{"mask": choice.mask_name, "ratio": choice.ratio, **values} for choice, values in pairs]
    return {"settings": rows, "out": str(settings.out)}


def compare_settings(results: dict[str, Drawing], scene: Scene) -> Image:
    """One sheet of the images under all settings of the masks, by their titles."""
    from mimsuite.pictures.latent import FeaturePicture, compare_features
    from mimsuite.pictures.reconstruction import Reconstruction, compare

    features = {title: result for title, result in results.items() if isinstance(result, FeaturePicture)}
    if features:
        return compare_features(features, scene.title)
    return compare({t: result for t, result in results.items() if isinstance(result, Reconstruction)}, scene.title)


def animate(settings: AnimationSettings) -> dict[str, Any]:
    """Makes a GIF of the pictures that a run wrote while it trained."""
    steps = list(settings.frames)
    save_animation(list(settings.frames.values()), settings.out, rows=settings.rows)
    log.info("%d pictures, steps %d to %d; animation in %s", len(steps), steps[0], steps[-1], settings.out)
    return {"steps": steps, "out": str(settings.out)}


if __name__ == "__main__":
    app.main("reconstruct", run)
