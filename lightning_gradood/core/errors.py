"""The exception that stands for a request which cannot be carried out, with the sentence that says why."""


class Refusal(ValueError):
    """An input is refused; the message is all that the user reads.

    Its grammar is the same everywhere: what was expected, what was got, how to fix it::

        raise Refusal("`split` should be three fractions that sum to 1. Got `split = [0.5, 0.5]`. Write e.g. [0.4, 0.4, 0.2].")

    The command line prints the message without a traceback and exits with code 2; in Python it is a `ValueError`.
    """
