"""Errors that a user can act on: one line that names the argument, what it got, what was expected and the remedy."""

from __future__ import annotations


class FewsegError(ValueError):
    """A wrong option, file or value; the command line prints it as one line and exits with status 2.

    Args:
        argument: the option, key or file that is wrong.
        got: what it held.
        expected: what would have been right.
        remedy: what to do about it.

    >>> print(FewsegError("--data.fold", 7, "0, 1, 2 or 3", "choose one of the four folds"))
    --data.fold: got 7, expected 0, 1, 2 or 3; choose one of the four folds
    """

    def __init__(self, argument: object, got: object, expected: str, remedy: str) -> None:
        self.argument, self.got, self.expected, self.remedy = str(argument), str(got), expected, remedy
        super().__init__(self.argument, self.got, expected, remedy)  # args make the error survive pickling

    def __str__(self) -> str:
        return " ".join(f"{self.argument}: got {self.got}, expected {self.expected}; {self.remedy}".split())
