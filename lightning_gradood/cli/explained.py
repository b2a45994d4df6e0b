"""What `score --explain` adds: columns with the contribution of every reading, and figures of the first images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` needs none of it
    from torch import Tensor

    from lightning_gradood.cli.score import Request
    from lightning_gradood.guard import Explanation, FileVerdict, Guard


class Explained:
    """Contributions of every image as `columns`, and figures of the first ones in `folder`."""

    def __init__(self, guard: Guard, given: Request) -> None:
        from lightning_gradood.core import PixelLimit
        from lightning_gradood.guard import reading_names

        self.guard, self.limit = guard, PixelLimit(given.max_megapixels)
        self.folder = figure_folder(given)
        self.left = (given.explain or 0) if self.folder else 0
        self.columns = {"baseline": float} | {f"contribution/{name}": float for name in reading_names(guard)}
        self._figures = 0
        self._files: dict[str, str] = {}

    def remembered(self, paths: Iterator[str]) -> Iterator[str]:
        """Remember which file is meant by a path that a verdict has to write otherwise, as it is no UTF-8."""
        from lightning_gradood.core import printable

        for path in paths:
            if (shown := printable(path)) != path:
                self._files[shown] = path
            yield path

    def of(self, verdict: FileVerdict) -> dict[str, float | None]:
        """The columns of one image; a figure is written while any are left."""
        from lightning_gradood.core import read_picture
        from lightning_gradood.guard import explain

        if verdict.error is not None:
            return dict.fromkeys(self.columns)
        file = self._files.get(verdict.path, verdict.path)
        pixels = self.guard.read(read_picture(file, self.guard.about.picture, self.limit), verdict.path)
        (found,) = explain(self.guard, pixels[None], heat=self.left > 0)
        if self.left > 0:
            self.left -= 1
            self._draw(verdict, pixels, found)
        values: dict[str, float | None] = {"baseline": found.baseline}
        return values | {f"contribution/{name}": value for name, value in found.contributions.items()}

    def _draw(self, verdict: FileVerdict, pixels: Tensor, found: Explanation) -> None:
        from lightning_gradood.core import as_float, atomic_write
        from lightning_gradood.report import as_png, explanation_figure

        self._figures += 1
        image = (as_float(pixels) * 255).round().byte().permute(1, 2, 0).numpy()
        flag = "flagged" if verdict.flagged else "not flagged"
        title = (
            f"{verdict.path}: {verdict.prediction}, score {verdict.score:.4g}, p-value {verdict.p_value:.3g}, {flag}"
        )
        heat = None if found.heat is None else found.heat.numpy()
        figure = explanation_figure(image, heat, found.contributions, title, found.note)
        name = f"{self._figures:03d}_{Path(verdict.path).stem}.png"
        with atomic_write(Path(str(self.folder), name), "--output") as file:
            file.write(as_png(figure))


def figure_folder(given: Request) -> Path | None:
    """Where figures of explanations go, beside the output; None where there are none."""
    return Path(given.output).with_suffix("") if given.output and given.explain else None
