"""Guards: a classifier, its fitted detector and a threshold in one folder, which score any image.

The room is empty but for this page. Until it is furnished, `detect` saves every fitted detector with its threshold, and
`lightning_gradood.detectors.load_detector` loads it.

    >>> import lightning_gradood.guard
    >>> lightning_gradood.guard.__all__
    []
"""

__all__: list[str] = []
