"""The task of `scripts/bench/others` as a Flower app."""
