"""Dead weights and dead units on MNIST: the experiments of Evci's thesis.

    python examples/mnist_dead_units.py pruning --seeds 3
    python examples/mnist_dead_units.py saliencies
    python examples/mnist_dead_units.py attack

The network is that of appendix C.1: two convolutions of 8 and 16 channels,
each with max-pooling and a ReLU, and dense layers of 64 and 10. It trains by
gradient descent with a rate of 0.01 on batches of 32, from the weights that
PyTorch, in which the thesis was done, begins with.

- `pruning` (sections 2.2 and 4.2) prunes while it trains: weights by magnitude
  (table 2.2), units by mean replacement saliency (table 4.2), and beside them
  by what else this package does, in the thesis' training and in a better one
  (Adam, 3e-3 falling as a cosine, batches of 128).
- `saliencies` (sections 2.1 and 4.1) asks at moments of one training what
  each criterion's choice would cost.
- `attack` (chapter 3) attacks a unit by a high learning rate.

Scores and means are taken from 1,000 training images. Every training that is
finished is written to a file at once, and not repeated when the command is
given again.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from datasets import load
from thesis_attack import attack
from thesis_pruning import prune
from thesis_saliencies import compare


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, help="of the training images")
    parser.add_argument("--unit", type=int, default=0, help="to attack")
    parser.add_argument(
        "--activation", default="relu", choices=("relu", "tanh")
    )
    parser.add_argument("--out", default="results")
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--verbose", type=int, default=0)
    return parser.parse_args()


EXPERIMENTS = {"pruning": prune, "saliencies": compare, "attack": attack}


def main() -> None:
    arguments = parse()
    data = load("mnist")
    # As PyTorch's examples normalize it.
    for part in ("train", "val", "test"):
        x = (getattr(data, f"x_{part}") - 0.1307) / 0.3081
        object.__setattr__(data, f"x_{part}", x)
    if arguments.samples:
        for name in ("x_train", "y_train"):
            short = getattr(data, name)[: arguments.samples]
            object.__setattr__(data, name, short)
    EXPERIMENTS[arguments.experiment](data, arguments)


if __name__ == "__main__":
    main()
