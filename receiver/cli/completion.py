"""`kling-receiver completion`: shell completion for commands and options."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from receiver.cli import OK


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Name of the shell.")], /) -> int:
    """Print a shell's completion script.

    bash: `kling-receiver completion bash > ~/.local/share/bash-completion/completions/kling-receiver`

    fish: `kling-receiver completion fish > ~/.config/fish/completions/kling-receiver.fish`

    zsh: `kling-receiver completion zsh > DIR/_kling-receiver`, with DIR in `$fpath`.
    """
    from receiver.cli.commands import app

    sys.stdout.write(app.generate_completion(prog_name="kling-receiver", shell=shell))
    return OK
