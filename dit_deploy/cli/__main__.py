"""``python -m dit_deploy.cli``: the command without its script."""

from dit_deploy.cli import main

main()
