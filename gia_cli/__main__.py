"""``gia``, and ``python -m gia_cli``: Ctrl-C is handled before anything else is loaded."""

from __future__ import annotations

from gia_cli import interrupts


def main() -> None:
    """Run the command line; the ``gia`` entry point."""
    interrupts.take_over()
    from gia_cli.cli import main as run

    run()


if __name__ == "__main__":
    main()
