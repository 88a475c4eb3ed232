"""What can go wrong because of input, said once: what happened, where, and how to fix it.

The command line prints an `InputError` as one message and leaves with exit code 2; every other
exception is a defect of transip and keeps its traceback.
"""

LONGEST = 4000  # characters of a message about a file that may hold anything


def printable(text: str) -> str:
    """`text` with a mark in place of control characters and halves of characters, which could rule a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


class InputError(Exception):
    """Bad input: a file, structure, setting or model that cannot be used as given.

    Args:
        problem: what is wrong, in one sentence.
        where: file, structure or setting concerned, e.g. ``"water.xyz, structure 3"``.
        remedy: what the user can do about it.
    """

    def __init__(self, problem: str, *, where: str = "", remedy: str = ""):
        self.problem, self.where, self.remedy = problem, where, remedy
        message = f"{where}: {problem}" if where else problem
        lines = (f"{message[:LONGEST]}\n  → {remedy}" if remedy else message[:LONGEST]).split("\n")
        super().__init__("\n".join(map(printable, lines)))

    def __reduce__(self):  # keyword-only arguments survive worker processes
        return _rebuild, (type(self), self.problem, self.where, self.remedy)


class NonFiniteLoss(InputError):
    """Training met a loss that is not finite; the offending structures are named."""


class InputWarning(UserWarning):
    """Input that can be used but probably should not be trusted, e.g. an element never trained on."""


def _rebuild(kind: type[InputError], problem: str, where: str, remedy: str) -> InputError:
    return kind(problem, where=where, remedy=remedy)
