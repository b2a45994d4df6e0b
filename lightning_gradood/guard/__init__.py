"""Guards: a classifier, its fitted detector and a threshold in one folder, which score any image.

The room is empty but for this page; until it is furnished, fitted detectors are saved by `detect` and loaded by
`lightning_gradood.detectors.load_detector`.
"""

__all__: list[str] = []
