"""Faults that change nothing that anyone could see, and why. Keys are ids without the line."""

EQUIVALENT: dict[str, str] = {
    "trainer/inference/score.py: method: nats_of(output)[:, plan.columns()].double() → "
    "(nats_of(output)[:, plan.columns()])": "PyTorch sums a pass's nats in fp32 pairwise: the mean "
    "differs in its eighth digit, and passes are still added in fp64",
    "trainer/engine/optimizers/lamb.py: constant: True → (False)": "`strict` of a zip only tells "
    "where its lists, which are made for each other, are not of one length",
    "trainer/training/due.py: constant: 500 → (501)": "any number of steps between two looks at "
    "the corpus would do; tests ask for this one by its name",
}
