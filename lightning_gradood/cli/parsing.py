"""How the command line is parsed, and what becomes of the parsed configuration."""

from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lightning_gradood.cli.sentences import one_sentence
from lightning_gradood.errors import Refusal


class Parser(LightningArgumentParser):
    """Refuses in one sentence where argparse would print its usage first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the refusal that `main` prints."""
        raise Refusal(one_sentence(message)) from ex


class LogConfig(SaveConfigCallback):
    """Send the resolved configuration to every logger; the run folder has it already."""

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Called by Lightning on rank zero when the first loop starts."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
