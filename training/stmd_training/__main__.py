"""``python -m stmd_training``: what ``torchrun -m`` and ``accelerate launch -m`` start."""

from .cli import main

main()
