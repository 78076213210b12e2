"""``python -m gia_cli``, the same as ``gia``."""

from gia_cli.cli import main

main()
