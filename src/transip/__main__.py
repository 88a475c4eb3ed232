"""``python -m transip`` is the same as ``transip``; `torchrun -m transip` starts it on several processes."""

from transip.cli import main

if __name__ == "__main__":
    main()
