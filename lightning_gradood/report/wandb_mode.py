"""Keep a W&B run offline when there is no account to send it to, instead of asking on the terminal."""

import os
from pathlib import Path


def offline_without_account(save_dir: str | Path | None = None) -> str | None:
    """Switch W&B to offline if nothing says otherwise and no account is configured.

    Call it before the first W&B run starts, in every process (child processes inherit `WANDB_MODE`). It asks nobody and
    sends nothing: API key and identity token in the environment, W&B's settings files and netrc are looked up where W&B
    itself looks. Nothing changes if a mode is chosen already (`WANDB_MODE`, `wandb offline`), if a run is going on, or
    if the key is malformed (W&B says so itself).

    Args:
        save_dir: the `save_dir` of the `WandbLogger`; by default where W&B writes.

    Returns:
        The line to show to the user, or None if nothing was changed.
    """
    if "WANDB_MODE" in os.environ:
        return None
    # Imported here: importing this room must not import wandb.
    import wandb
    from wandb.sdk import wandb_setup

    if wandb.run is not None or _has_account() or wandb_setup.singleton().settings.mode != "online":
        return None
    # W&B froze its settings when they were read above; a fresh start reads WANDB_MODE. There is no run to end.
    wandb.teardown()
    os.environ["WANDB_MODE"] = "offline"
    folder = Path(save_dir or os.environ.get("WANDB_DIR") or ".") / "wandb"
    return (
        f"Weights & Biases: no account is configured, so the run is logged offline in {folder}/offline-run-*; "
        f"to upload it: `wandb login`, then `wandb sync {folder}/offline-run-*`."
    )


def _has_account() -> bool:
    """Say whether W&B would find credentials, by the lookup that its own command line uses."""
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    try:
        key = settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    except AuthenticationError:
        return True  # there is a key, and W&B's own message says what is wrong with it
    return bool(key or settings.identity_token_file)
